"""From a prompt to a vector: ask and material are told apart and embedded apart."""
