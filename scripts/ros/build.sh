#!/usr/bin/env bash
# Build the ROS package into install/ with the ROS 2 wheels of the project's virtual environment.
#
#     scripts/ros/build.sh            build if an interface or a build file changed
#     scripts/ros/build.sh --force    build from scratch
#
# On a machine with a ROS installation use plain `colcon build` instead. Python files are not looked at:
# scripts/ros/env.sh puts the source folder first, so only the generated interfaces come from install/.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=${VIRTUAL_ENV:-$root/.venv}
stamp=$root/build/xsam_ros.sha256
cd "$root"

[[ -x $venv/bin/colcon ]] || {
  echo "build.sh: no colcon in $venv: install requirements/all.lock there first" >&2
  exit 1
}
mkdir -p build
exec 9> build/.lock
flock --timeout 600 9 || { echo "build.sh: another build has held build/.lock for 10 minutes" >&2; exit 1; }

# Where and with what the code is made; CMake's cache does not survive a change of these.
place() {
  {
    echo "$venv" "$root"
    "$venv/bin/python" --version
    ls -d "$venv"/lib/python3*/site-packages/ros_*.dist-info 2> /dev/null || true
  } | sha256sum | cut -d ' ' -f 1
}

# What it is made of.
sources() {
  {
    find action msg srv -type f 2> /dev/null | LC_ALL=C sort | xargs sha256sum
    sha256sum CMakeLists.txt package.xml scripts/ros/fix_imports.cmake scripts/xsam_*
    find launch config -type f -not -path '*/__pycache__/*' | LC_ALL=C sort | xargs sha256sum
  } | sha256sum | cut -d ' ' -f 1
}

wanted="$(place) $(sources)"
have=$([[ -f $stamp ]] && cat "$stamp" || true)
if [[ ${1:-} == --force || ${have%% *} != "${wanted%% *}" ]]; then
  rm -rf build/xsam_ros install "$stamp"
elif [[ $have == "$wanted" && -f install/xsam_ros/share/xsam_ros/package.xml ]]; then
  echo "build.sh: install/ is up to date"
  exit 0
fi

start=$SECONDS
echo "build.sh: building xsam_ros into install/ (about a minute from scratch, longer on a busy machine)"
export PATH=$venv/bin:$PATH AMENT_PREFIX_PATH=$venv COLCON_LOG_PATH=$root/log
unset CMAKE_PREFIX_PATH COLCON_PREFIX_PATH PYTHONPATH LD_LIBRARY_PATH
output=build/colcon.log
if ! colcon build --paths . --build-base build --install-base install --event-handlers console_direct+ \
  --cmake-args "-DCMAKE_PROJECT_INCLUDE=$root/scripts/ros/fix_imports.cmake" \
  "-DPython3_EXECUTABLE=$venv/bin/python" -DBUILD_TESTING=OFF > "$output" 2>&1; then
  tail -n 40 "$output" >&2
  echo "build.sh: failed, all of the output is in $output" >&2
  exit 1
fi
echo "$wanted" > "$stamp"
echo "build.sh: done in $((SECONDS - start)) s"
