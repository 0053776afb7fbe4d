// The API in words, from the server's own openapi.json. Text from the server is only ever text.

const find = (id) => document.getElementById(id);

/** Make an element of text and elements. */
function element(tag, className, ...content) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...content);
  return node;
}

const nameOf = (reference) => reference.split("/").pop();

/** Return the type of a schema as text and links. */
function typeOf(schema = {}) {
  if (schema.$ref) {
    const link = element("a", "", nameOf(schema.$ref));
    link.href = `#${nameOf(schema.$ref)}`;
    return [link];
  }
  const options = schema.anyOf ?? schema.oneOf;
  if (options) return options.flatMap((option, index) => (index ? [" or ", ...typeOf(option)] : typeOf(option)));
  if (schema.const !== undefined) return [JSON.stringify(schema.const)];
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
  if (schema.type === "array") {
    return schema.prefixItems ? [`${schema.prefixItems.length} numbers`] : ["list of ", ...typeOf(schema.items)];
  }
  return [schema.type ?? "anything"];
}

function table(rows) {
  return element("table", "", ...rows.map((cells) => element("tr", "", ...cells.map((cell) => element("td", "", ...cell)))));
}

function fields(schema) {
  const required = new Set(schema.required ?? []);
  return table(
    Object.entries(schema.properties ?? {}).map(([name, field]) => [
      [element("code", "", name), required.has(name) ? "" : " (optional)"],
      typeOf(field),
      [field.description ?? ""],
    ]),
  );
}

function operation(path, method, { summary = "", description = "", parameters = [], requestBody, responses = {} }) {
  const item = element("article", "card", element("h2", "", element("code", "", `${method.toUpperCase()} ${path}`)));
  item.append(element("p", "", summary));
  if (description && description !== summary) item.append(element("p", "quiet", description));
  if (parameters.length) {
    item.append(table(parameters.map(({ name, in: place, schema }) => [[element("code", "", name), ` (${place})`], typeOf(schema)])));
  }
  for (const [type, { schema = {} }] of Object.entries(requestBody?.content ?? {})) {
    item.append(element("h3", "", "Request: ", element("code", "", type)));
    if (schema.properties) item.append(fields(schema));
    else if (schema.description) item.append(element("p", "", schema.description));
  }
  item.append(element("h3", "", "Responses"));
  item.append(
    table(
      Object.entries(responses).map(([status, { description: words = "", content = {} }]) => [
        [element("code", "", status)],
        Object.entries(content).flatMap(([type, { schema }], index) => [index ? ", " : "", `${type}: `, ...typeOf(schema)]),
        [words],
      ]),
    ),
  );
  return item;
}

async function show() {
  const response = await fetch(new URL("openapi.json", document.baseURI), { cache: "no-store", credentials: "omit" });
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  const { info, paths, components = {} } = await response.json();
  find("version").textContent = info.version;
  find("about").textContent = info.description;
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, described] of Object.entries(methods)) find("paths").append(operation(path, method, described));
  }
  for (const [name, schema] of Object.entries(components.schemas ?? {})) {
    const item = element("article", "card", element("h2", "", element("code", "", name)));
    item.id = name;
    if (schema.description) item.append(element("p", "", schema.description));
    item.append(schema.properties ? fields(schema) : element("p", "", ...typeOf(schema)));
    find("schemas").append(item);
  }
}

show().catch((error) => {
  find("about").textContent = `The description of the API cannot be had: ${error.message}. Reload the page.`;
});
