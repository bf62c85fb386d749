"""Carries connections from TCP ports of 127.0.0.1 to Unix sockets: relay.py PORT=SOCKET...

Run as another user, it makes a client that speaks TCP a client of that user on a Unix socket.
"""

import socket
import sys
import threading


def carry(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve(port, path):
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            client, _ = listener.accept()
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(path)
            except OSError:
                client.close()
                continue
            for ends in ((client, server), (server, client)):
                threading.Thread(target=carry, args=ends, daemon=True).start()


for argument in sys.argv[1:]:
    port, path = argument.split("=", 1)
    threading.Thread(target=serve, args=(int(port), path)).start()
