"""How the rule for canaries decides: false promotions, false roll-backs, and the answers that it needs."""
