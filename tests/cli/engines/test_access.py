"""No other user of a machine can connect to the processes that cmnet starts, or read their pages."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed.security import Security

from cmnet_cli.engines.base import EngineSpec
from cmnet_cli.engines.select import open_engine

_INTRUDER = """
import http.client, os, socket, ssl, sys
import encodings.idna
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
certificate, *ports = sys.argv[1:]

def answer(port, wrap):
    try:
        with socket.create_connection(("127.0.0.1", int(port)), timeout=5) as plain, wrap(plain) as channel:
            channel.settimeout(5)
            # The head of a message of Dask: one frame of no bytes.
            channel.sendall((8).to_bytes(8, "little") + (0).to_bytes(8, "little"))
            return channel.recv(100)
    except OSError:
        return b""

def tls(with_certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if with_certificate:
        context.load_cert_chain(certificate)
    return context.wrap_socket

class Plain:
    def __init__(self, channel): self.channel = channel
    def __enter__(self): return self.channel
    def __exit__(self, *_): pass

for port in ports:
    for name, wrap in (("plain", Plain), ("no certificate", tls(False)), ("a certificate of another user", tls(True))):
        got = answer(port, wrap)
        if got and not got.startswith(b"HTTP/1.1 400"):
            print(port, name, got)
    for path in ("/", "/status", "/health", "/metrics", "/info/main/workers.html", "/json/identity.json"):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=5)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                print(port, path, "can be read")
        except (OSError, http.client.HTTPException):
            pass
print("tried", len(ports), "ports")
"""


def _listening() -> set[Any]:
    """Return the addresses on which this process and its children accept connections."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    connections = [connection for process in family for connection in process.net_connections()]
    return {connection.laddr for connection in connections if connection.status == psutil.CONN_LISTEN}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_another_user_cannot_connect_to_local_workers(tmp_path: Path) -> None:
    foreign = Security.temporary()
    certificate = tmp_path / "foreign.pem"
    certificate.write_text(foreign.tls_client_key + foreign.tls_client_cert)
    certificate.chmod(0o644)
    # The other user can read the certificate, in the folders that pytest has made for its own user.
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(("test_", "popen-", "pytest-")):
            folder.chmod(0o755)
    earlier = _listening()
    with open_engine(EngineSpec(workers=1)) as engine:
        assert engine.all_workers_see(Path(__file__)), "its own user can connect"
        listening = _listening() - earlier
        assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}
        ports = [str(address.port) for address in listening]
        tried = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _INTRUDER, str(certificate), *ports],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
    assert tried.stdout == f"tried {len(ports)} ports\n", tried.stdout + tried.stderr
    assert len(ports) >= 3, "the scheduler, the nanny and the worker"
