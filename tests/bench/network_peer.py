"""Both ends beside the way out, standard library only. `serve PEM`: HTTP and HTTPS on ports that are printed, answering
`/N` with N bytes. The others take HOST PORT COUNT PROXY_PORT PEM. `ask`: the median milliseconds of so many small
requests on a kept connection. `fetch`: MB/s of a download of so many bytes, from its first one. `many`: of so many
connections that are open at once, each with a request, those that failed.
"""

import http.client
import socket
import ssl
import statistics
import sys
import threading
import time

BLOCK = bytes(1 << 20)


def answer(connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as lines:
        while line := lines.readline():
            size = int(line.split()[1].strip(b"/") or 0)
            while lines.readline() not in (b"\r\n", b""):
                pass
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            while size > 0:
                connection.sendall(BLOCK[: min(size, len(BLOCK))])
                size -= len(BLOCK)


def accept(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def serve(connection: socket.socket = connection) -> None:
            try:
                answer(context.wrap_socket(connection, server_side=True) if context else connection)
            except OSError:
                return

        threading.Thread(target=serve, daemon=True).start()


def serve(pem: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    print(*(listener.getsockname()[1] for listener in listeners), flush=True)
    for listener, wanted in zip(listeners, (None, context), strict=True):
        threading.Thread(target=accept, args=(listener, wanted), daemon=True).start()
    sys.stdin.read()


def connect(host: str, port: int, proxy: int, pem: str) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=pem)
    if not proxy:
        return http.client.HTTPSConnection(host, port, context=context)
    connection = http.client.HTTPSConnection("127.0.0.1", proxy, context=context)
    connection.set_tunnel(host, port)
    return connection


def many(host: str, port: int, count: int, proxy: int, pem: str) -> None:
    """Each stays open until all have had their answer."""
    together, done = threading.Barrier(count, timeout=120), []

    def one() -> None:
        connection = connect(host, port, proxy, pem)
        try:
            connection.connect()
            together.wait()
            connection.request("GET", "/65536")
            if len(connection.getresponse().read()) == 65536:
                together.wait()
                done.append(connection)
        except (OSError, http.client.HTTPException, threading.BrokenBarrierError) as error:
            print(repr(error), file=sys.stderr)
            together.abort()
        finally:
            connection.close()

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(count - len(done))


def fetch(host: str, port: int, size: int, proxy: int, pem: str) -> None:
    connection = connect(host, port, proxy, pem)
    connection.request("GET", f"/{size}")
    reply, room = connection.getresponse(), bytearray(1 << 18)
    began = time.perf_counter()
    while reply.readinto(room):
        pass
    print(size / (time.perf_counter() - began) / 1e6)


def ask(host: str, port: int, times: int, proxy: int, pem: str) -> None:
    connection = connect(host, port, proxy, pem)
    took = []
    for _ in range(times):
        began = time.perf_counter()
        connection.request("GET", "/100")
        connection.getresponse().read()
        took.append((time.perf_counter() - began) * 1000)
    print(statistics.median(took))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        order = {"ask": ask, "fetch": fetch, "many": many}[sys.argv[1]]
        order(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
