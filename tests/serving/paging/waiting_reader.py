"""A reader of vLLM's shared-memory queue waits for messages that come in turn: `waiting_reader.py PAUSE_S COUNT naps`.

Prints as JSON the processor seconds that this took and how late it got the latest message. A program of its own, since
vLLM leaves its sockets to the end of the process.
"""

import json
import sys
import threading
import time

from vllm.distributed.device_communicators.shm_broadcast import MessageQueue

from serving.paging.idle_polling import wait_in_naps


def main(pause_s: float, count: int, naps: bool) -> None:
    writer = MessageQueue(1, 1)
    reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
    found = {"readers": wait_in_naps("mp") if naps else 0, "late": 0.0}

    def read() -> None:
        reader.dequeue(timeout=10)
        before = time.thread_time()
        for _ in range(count):
            sent = reader.dequeue(timeout=10)
            found["late"] = max(found["late"], time.monotonic() - sent)
        found["taken"] = time.thread_time() - before

    thread = threading.Thread(target=read)
    thread.start()
    writer.wait_until_ready()
    writer.enqueue("first")
    for _ in range(count):
        time.sleep(pause_s)
        writer.enqueue(time.monotonic())
    thread.join(10)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "naps")
