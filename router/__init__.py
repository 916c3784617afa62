"""The router chooses, for each request, a learnware or the base model, and an engine replica. It reads specifications,
never weights.

The way of a request, each line made from the one above:

    body                    the client's JSON, perhaps cut, which HAProxy sends to `router.deployment.LearnwareRouter`
    RoutedRequest           model and prompts of the body, each prompt a Conversation (`router.request`), with nothing
                            but the user's own words (`router.wrappers`)
    Turn                    one message of a conversation, with its system prompt; it has one to three *readings*, the
                            texts that it is looked up by (`router.turn`)
    Probabilities           p(task | reading), from the reading's vector (`router.task_model`), with the nearest
                            learnwares as Closeness (`router.index.index`)
    Best                    expected quality of the best learnwares and of the base model (`router.ranking`)
    Choice of a reading     a learnware or the base model, the reason, and Candidates (`router.selection`)
    Choice of a turn        that of the reading with most confidence (`router.conversation.best_reading`)
    Choice of a request     folded over a conversation's turns, agreed over all prompts (`router.conversation`)
    Decided, Decision       that choice with the time it waited (`router.decisions`, `router.deployment`)
    Choice, drawn           now and then of a near-equal (`router.exploring`) or of the learnware's canary
                            (`router.canaries`)
    Option                  a learnware that may answer: the chosen one or one nearly as good (`router.placer`)
    Placed                  one Option on one engine replica (`router.placement`)
    RoutedChoice            the answer to HAProxy: a signed header beside the replica's address (`router.choice`)

A request that names a model skips the lines from Turn to Decision and gets no RoutedChoice. A task's id (`task:…`) is
chosen for by its stored mean, without turns and readings (`router.selection.Selector.choose_task`).

All of it works on one Snapshot of the market (`router.snapshot`), which is swapped when the catalogue changes. The
terms ask, material, view and home are defined in `specs`; an adapter's *home replica* is the first one of its order of
replicas (`router.placement`).
"""
