"""From a prompt to a vector: what is asked and what it is about, told apart and embedded apart."""
