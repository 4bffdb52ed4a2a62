"""The server's side of TLS: what its files must be. More of it stands with those who listen."""

from __future__ import annotations

import ssl

import pytest

from gateway.sources.server_tls import ServerTls, server_context
from hil.certificates import Authority


def test_files_that_are_none_are_named(tmp_path) -> None:
    """Missing, or no PEM."""
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("x")
    with pytest.raises(ValueError, match="there is no file /gone"):
        server_context(ServerTls(cert_file="/gone", key_file=str(nonsense)), only_certificates=False)
    with pytest.raises(ValueError, match="cannot use .*nonsense"):
        server_context(ServerTls(cert_file=str(nonsense), key_file=str(nonsense)), only_certificates=False)


def test_certificates_of_clients_are_believed_where_an_authority_is_named(tmp_path) -> None:
    """And nobody is asked for one otherwise."""
    authority = Authority(tmp_path)
    ours = authority.issue()
    plain = ServerTls(cert_file=str(ours.certificate), key_file=str(ours.key))
    assert server_context(plain, only_certificates=True).verify_mode is ssl.CERT_NONE
