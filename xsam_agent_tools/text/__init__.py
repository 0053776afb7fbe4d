"""Text for the language model: JSON payloads and advice; and the artifacts for programs."""
