# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Succeeds when the node in this container answers and has registered. Imports little: it runs every few seconds."""

import socket
import sys

NODE_PORT = 8888

try:
    with socket.create_connection(("127.0.0.1", NODE_PORT), 5) as connection:
        connection.sendall(b"GET /node/health HTTP/1.0\r\n\r\n")
        answer = b""
        while part := connection.recv(4096):
            answer += part
except OSError as error:
    sys.exit(f"the node does not answer on port {NODE_PORT}: {error}")
if b'"registered": true' not in answer:
    sys.exit("the node is not registered in the keystore yet")
