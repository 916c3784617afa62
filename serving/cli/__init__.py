"""The console command `learnware-serving`; `main` puts the commands together.

main           the parser of all commands; runs `serve` and `environment` itself
spec, vector   specifications of tasks and learnwares, and parameter vectors
market         the market's learnwares
train          trains an adapter; adds `score`, `matrix` and `measure`
score          learnwares beside their controls
measure        learnwares off their task
learnware      adds an adapter as a learnware (`add`, `card_options`, `delivery`, `stack_client`); zip files of the
               `learnware` package
"""
