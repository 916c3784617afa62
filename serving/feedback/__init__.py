"""How feedback becomes evidence: pieces of feedback, robust means over tenants, a posterior for each learnware and
task, and the learner that makes `specs.evidence.Evidence` of them."""
