"""Training of learnwares' adapters, and measuring them against controls, without an engine.

rows         a task's rows: reading, checking, shuffling of answers, tokens
settings     the settings of a training run
trainer      the training loop, with checkpoints
split_model  the base model in a frozen lower and an adapted upper part
keep         keeps the base model's behaviour outside the task while an adapter is trained
adapter      from a base model and rows to an adapter's folder
generation   greedy answers to many prompts, and the base model's own, kept on disk
loops        detects answers that repeat themselves
scoring      scores of rows by log-likelihood
free_text    scores of answers in sentences
drift        what adapters do to requests off their task
matrix       every adapter on every task
report       reports and tables of scores
statistics   intervals and significance
pave         trains parameter vectors (PAVE)
"""
