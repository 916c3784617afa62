"""Learnwares and their specifications: files, checks and the mathematics that needs no server. Imports neither Ray nor
vLLM.

Terms of the field, as this project uses them:

    learnware            a LoRA adapter of a base model with its card and specifications, one folder (`specs.learnware`)
    card                 what people and searches read about a learnware, `learnware.yaml` (`specs.card`)
    specification        the reduced sets of a learnware's prompts, with what its answers are (`specs.specification`)
    reduced set          a weighted point set whose kernel mean is close to that of the data (`specs.rkme`)
    task specification   the noisy mean of a task's prompt vectors, which its owner sends instead of rows (`specs.task`)
    capability           how well a learnware was measured to answer, beside its base model (`specs.capability`)
    parameter vector     the change that a set of texts makes to a small shared model, PAVE (`specs.pave`)
    canary               a new version of a learnware that answers a share of its requests at first (`specs.canary`)
    market               the store of learnwares that are served, and of what became of all others (`specs.market`)

Terms of this project's own, each used in this sense alone:

    ask                  the sentences of a prompt that say what is wanted (`specs.encoding.ask`)
    material             the rest of a prompt, which the ask is about
    view                 one of a specification's reduced sets: whole, examples or asked
    asked request        a learnware's ask in other words, composed with material of its rows (`specs.compositions`)
    declined request     another ask, composed with that same material, which the learnware is not meant to answer
    off-task             said of any request that belongs to none of a learnware's tasks (`specs.off_task`)
    home                 the base model's share of all requests, which no learnware should get, as reduced sets
                         (`specs.home`): everyday prompts, free questions of each domain, other asks
    everyday prompt      chat, writing, code and general knowledge, which belong to no domain (`specs.prompts`)
    other ask            an ask that fits any material and wants something else than its label (`specs.prompts`)
"""
