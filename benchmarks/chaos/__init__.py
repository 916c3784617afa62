"""Does to a running stack what strangers, bad disks and dying processes do, and measures what others notice of it.

target     the stack under test: its address, keys, processes, metrics, and HAProxy's statistics and log
client     requests whose outcome is told whatever it is, and the load generator's own lag
figures    arithmetic that scenarios share: percentiles, ratios with their spread, slopes
bodies     malformed bodies, drawn from a grammar of each API's fields
kills, malformed, cancelled, door, overload, tenants, soak, disk    one scenario each
main       which scenarios run, on which stack, and what is kept of them
"""
