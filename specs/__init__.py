"""What a learnware is: an adapter with a specification of what it is good at. No Ray, no vLLM."""
