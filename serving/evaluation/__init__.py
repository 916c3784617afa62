"""Compares answers of two models to the same requests, and decides on canaries.

comparison     two answers to one request, and what is settled without asking anybody
judge          asks a model which of the two is better: blind, and in both orders
reference      measures an answer against the right one
evaluator      takes comparisons, has them judged, and keeps the verdicts
evidence       what is known of a canary beside its learnware: compared answers and failures
betting        intervals that hold at all looks at once
canary_rule    promotes or rolls back a canary by them
canary_keeper  applies the rule to the market's canaries
win_rates      win rates with intervals
"""
