"""What the language model reads and what the program gets: JSON texts, advice, artifacts."""
