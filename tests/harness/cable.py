"""A bad cable: carries Ethernet frames between two TAP devices, late, and not all of them.

Arguments: the names of the two devices, which are made here and go with this program; then of each direction the least
and the greatest delay in milliseconds and the percentage that is lost. Frames do not overtake each other.
"""

import collections
import fcntl
import os
import random
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000


def tap(name):
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def main():
    # The cable is bad, not the machine busy.
    os.nice(-10)
    least, greatest, lost = (float(word) for word in sys.argv[3:6])
    ends = [tap(name) for name in sys.argv[1:3]]
    others = {ends[0]: ends[1], ends[1]: ends[0]}
    late = {end: collections.deque() for end in ends}  # by the end that they leave at: when, and what
    while True:
        due = [frames[0][0] for frames in late.values() if frames]
        wait = max(0.0, min(due) - time.monotonic()) if due else None
        ready, _, _ = select.select(ends, [], [], wait)
        now = time.monotonic()
        for end in ready:
            try:
                frame = os.read(end, 65536)
            except OSError:  # it is not up yet
                continue
            if random.random() * 100 >= lost:
                frames = late[others[end]]
                after = now + random.uniform(least, greatest) / 1000
                frames.append((max(after, frames[-1][0]) if frames else after, frame))
        for end, frames in late.items():
            while frames and frames[0][0] <= now:
                try:
                    os.write(end, frames.popleft()[1])
                except OSError:  # as if it were full
                    pass


main()
