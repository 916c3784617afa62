"""Streams that a replica's death cuts end with an error event in the form of the API that was called, as a Lua filter
of HAProxy.

A replica tells its own failures (`serving.replica.answering`); but one that is killed tells nothing, and HAProxy 2.8
would close the client's connection in the middle of the body. The filter looks at streams of server-sent events alone:
where the replica's side is closed and the body has not come to its end, it appends the event and ends the body.
"""

import json
import re

from serving.edge.template import replace

NAME = "end-cut-streams"
"""The filter's name in HAProxy's configuration."""
MESSAGE = "The replica that wrote this answer is gone. Send the request again."
TYPE = "service_unavailable"
CODE = "replica_gone"

_OPENAI = json.dumps({"error": {"message": MESSAGE, "type": TYPE, "param": None, "code": CODE}})
_RESPONSES = json.dumps({"type": "error", "code": CODE, "message": MESSAGE, "param": None})
_MESSAGES = json.dumps({"type": "error", "error": {"type": "api_error", "message": MESSAGE}})

#: Begins with an empty line: what was cut in the middle of an event ends before it.
FILTER = f"""
local EndCutStreams = {{ id = "{NAME}", flags = filter.FLT_CFG_FL_HTX }}
EndCutStreams.__index = EndCutStreams

function EndCutStreams:new()
    return setmetatable({{}}, EndCutStreams)
end

function EndCutStreams:http_headers(txn, message)
    if not message:is_resp() then
        self.path = txn.sf:path() or ""
        return
    end
    local kind = message:get_headers()["content-type"]
    if kind and kind[0]:sub(1, 17) == "text/event-stream" then
        filter.register_data_filter(self, message.channel)
    end
end

function EndCutStreams:http_payload(txn, message)
    if self.ended or message.channel:may_recv() or message:eom() then
        return
    end
    self.ended = true
    local event = "data: " .. [==[{_OPENAI}]==] .. "\\n\\ndata: [DONE]\\n\\n"
    if self.path:sub(1, 12) == "/v1/messages" then
        event = "event: error\\ndata: " .. [==[{_MESSAGES}]==] .. "\\n\\n"
    elseif self.path:sub(1, 13) == "/v1/responses" then
        event = "event: error\\ndata: " .. [==[{_RESPONSES}]==] .. "\\n\\n"
    end
    message:append("\\n\\n" .. event)
    message:set_eom()
end

core.register_filter("{NAME}", EndCutStreams, function(each, arguments)
    return each
end)
"""


def edit_cut_streams(config: str) -> str:
    """Return the configuration with the filter in the frontend; the Lua file that it loads must hold `FILTER`.

    Raises:
        TemplateChanged: the frontend was not found.
    """

    def filtered(match: "re.Match[str]") -> str:
        return f"{match[1]}    filter lua.{NAME}\n"

    return replace(config, r"(?m)^(frontend http_frontend\n    bind .*\n)", filtered, "the frontend's bind line")
