"""The console command `learnware-serving`: one module for each command, `main` puts them together."""
