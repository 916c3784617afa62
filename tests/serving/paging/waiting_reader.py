"""A reader of vLLM's shared-memory queue waits for a second message: `waiting_reader.py PAUSE_S asleep`.

Prints as JSON the processor seconds that this took and how late it got the message. A program of its own, since vLLM
leaves its sockets to the end of the process.
"""

import json
import sys
import threading
import time

from vllm.distributed.device_communicators.shm_broadcast import MessageQueue

from serving.paging.waiting import wait_asleep


def main(pause_s: float, asleep: bool) -> None:
    writer = MessageQueue(1, 1)
    reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
    readers = wait_asleep() if asleep else 0
    found = {"readers": readers}

    def read() -> None:
        reader.dequeue(timeout=10)
        before = time.thread_time()
        sent = reader.dequeue(timeout=10)
        found.update(taken=time.thread_time() - before, late=time.monotonic() - sent)

    thread = threading.Thread(target=read)
    thread.start()
    writer.wait_until_ready()
    writer.enqueue("first")
    time.sleep(pause_s)
    writer.enqueue(time.monotonic())
    thread.join(10)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2] == "asleep")
