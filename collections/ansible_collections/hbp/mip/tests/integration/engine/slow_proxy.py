# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A TCP proxy that lets the first connection through at once and keeps the others waiting for some seconds.

Usage: slow_proxy.py LISTEN_PORT TARGET_HOST TARGET_PORT SECONDS
"""

from __future__ import annotations

import socket
import sys
import threading
import time


def copy(source: socket.socket, target: socket.socket) -> None:
    """Hand on everything that `source` sends."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        target.close()


def serve(client: socket.socket, target: tuple[str, int], not_before: float) -> None:
    """Connect `client` with `target`, not before that time."""
    time.sleep(max(0.0, not_before - time.monotonic()))
    server = socket.create_connection(target)
    threading.Thread(target=copy, args=(server, client), daemon=True).start()
    copy(client, server)


def main() -> None:
    """Serve until killed."""
    port, host, target_port, seconds = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    with socket.create_server(("", port)) as listener:
        print("ready", flush=True)
        not_before = 0.0
        while True:
            client, _unused = listener.accept()
            threading.Thread(target=serve, args=(client, (host, target_port), not_before), daemon=True).start()
            not_before = not_before or time.monotonic() + seconds


if __name__ == "__main__":
    main()
