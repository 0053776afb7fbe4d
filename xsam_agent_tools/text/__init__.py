"""Text for the language model: JSON payloads, advice, phrases; and the artifacts for programs."""
