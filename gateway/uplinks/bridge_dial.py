"""How a connection to a broker comes about, and what it means when it does not. Must not publish, or retry.

A broker that does not know MQTT 5 says so or hangs up; then it goes on with 3.1.1, until the gateway starts anew.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from gateway.core.contracts import TryLaterError
from gateway.core.text import printable
from gateway.net.mqtt_address import parse_url
from gateway.net.mqtt_fields import VERSION_3_1_1, VERSION_5, ProtocolError, ReasonCode
from gateway.net.paho_client import BulkClient, connect_properties
from gateway.net.tls import certificate_advice, is_tls_error
from gateway.uplinks.bridge_line import BrokerLine, EndedLineError, LineError, StalledLineError, reason_of
from gateway.uplinks.bridge_reasons import decide_connection
from gateway.uplinks.guards import HoldError, UnreachableError
from gateway.uplinks.wires import tls_context

if TYPE_CHECKING:
    from gateway.core.clock import Clock
    from gateway.net.deadline import Deadline
    from gateway.uplinks.bridge_settings import MqttUplinkSettings

UNSENT_BYTES_MAX: Final = 16 * 1024
# Without a CONNACK after this many tries, perhaps the broker drops what it does not know: try 3.1.1.
SILENT_DROPS_MAX: Final = 2
REASON_CHARS_MAX: Final = 120


class Dialler:
    """Connects to one broker. `client` is the last one that was begun, `asked_ns` since when one is being asked for.

    Who gives up a connection from another thread says before why: `is_cut`, or `is_aborted` where no other is wanted.
    """

    def __init__(self, settings: MqttUplinkSettings, *, url: str, client_id: str, clock: Clock) -> None:
        self.version = VERSION_5 if settings.protocol == "5" else VERSION_3_1_1
        self.client: BulkClient | None = None
        self.asked_ns: int | None = None
        self.attempts = 0
        self.is_aborted = self.is_cut = False
        self._settings = settings
        self._address = parse_url(url)
        self.where = f"{self._address.host}:{self._address.port}"
        self._client_id = client_id
        self._clock = clock
        self._connect_s = float(settings.connect_timeout or settings.timeout)
        self._timeout_s = float(settings.timeout)
        self._silent_drops = 0
        self._has_answered = False

    @property
    def is_encrypted(self) -> bool:
        """Whether a new connection begins with TLS."""
        return self._address.is_tls

    def dial(self, until: Deadline, *, device: str = "") -> BrokerLine:
        """Return a connection that the broker has accepted; raise TryLaterError that says why there is none.

        Where there is a `device` it leaves by that network device and by no other.
        """
        settings, address = self._settings, self._address
        try:
            password = settings.password.read() if settings.password is not None else ""
        except ValueError as error:
            raise HoldError(f"password: {error}") from error
        try:
            tls = tls_context(settings.tls) if address.is_tls else None
        except OSError as error:
            files = " or ".join(filter(None, (settings.tls.ca_file, settings.tls.cert_file, settings.tls.key_file)))
            raise HoldError(f"cannot read the certificates in {files or 'the system'}: {error}") from error
        client = self.client = BulkClient(
            client_id=self._client_id,
            version=self.version,
            transport="websockets" if address.is_websocket else "tcp",
            clean=True,
            tls=tls,
            timeout_s=max(until.left_s(), 0.001),
            username=settings.username,
            password=password,
        )
        client.device = device
        if address.is_websocket:
            client.ws_set_options(path=address.path)
        self.attempts += 1
        self.asked_ns = self._clock.monotonic_ns()
        line = self._greet(client, until)
        self.asked_ns = None
        line.keep(probe_after_s=round(settings.keepalive), unsent_bytes_max=UNSENT_BYTES_MAX)
        return line

    def _greet(self, client: BulkClient, until: Deadline) -> BrokerLine:
        """Connect, and hear what the broker says to it."""
        properties = None
        if self.version == VERSION_5:
            properties = connect_properties(session_expiry_s=0, receive_maximum=1, packet_bytes_max=None)
        try:
            client.dial(self._address.host, self._address.port, keepalive_s=0, properties=properties)
        except OSError as error:
            raise self._explain_connect(error) from error
        if self.is_aborted:
            raise TryLaterError("the uplink is stopping")
        line = BrokerLine(client, timeout_s=self._connect_s, clock=self._clock)
        try:
            line.greet(until)
        except EndedLineError as error:
            if error.code == ReasonCode.UNSUPPORTED_PROTOCOL_VERSION and self.version == VERSION_5:
                raise self._fall_back() from error
            self._has_answered = True
            raise decide_connection(
                error.code, what=f"the broker refuses {self._client_id}", said=error.said
            ) from error
        except StalledLineError as error:
            raise UnreachableError(f"{self.where} accepted the connection and said nothing") from error
        except ProtocolError as error:
            raise TryLaterError(f"{self.where} says what is not MQTT: {error}") from error
        except (LineError, OSError) as error:
            raise self._explain_silence(client, error) from error
        self._silent_drops, self._has_answered = 0, True
        line.timeout_s = self._timeout_s
        return line

    def _fall_back(self) -> TryLaterError:
        self.version, self._silent_drops = VERSION_3_1_1, 0
        error = TryLaterError(f"{self.where} does not know MQTT 5; going on with 3.1.1")
        error.at_once = True
        return error

    def _explain_silence(self, client: BulkClient, error: Exception) -> TryLaterError:
        """Return what it means that a broker hangs up before it has answered."""
        if is_tls_error(client.error):
            return self._explain_connect(client.error)
        self._silent_drops += 1
        if self.version == VERSION_5 and not self._has_answered and self._silent_drops >= SILENT_DROPS_MAX:
            return self._fall_back()
        hint = ""
        if self._address.is_tls and not self._settings.tls.cert_file:
            # Its alert may be lost when the connection is reset behind it.
            hint = "; does it ask for a client certificate (tls.cert_file)?"
        return UnreachableError(
            f"{self.where} hung up before it answered: {printable(str(error), REASON_CHARS_MAX)}{hint}"
        )

    def _explain_connect(self, error: OSError) -> TryLaterError:
        if self.is_aborted:
            return TryLaterError("the uplink is stopping")
        if isinstance(error, socket.gaierror):
            return UnreachableError(f"the name {self._address.host} cannot be resolved")
        if isinstance(error, TimeoutError) or self.is_cut:
            return UnreachableError(f"no connection to {self.where} within {self._connect_s:g} s")
        if is_tls_error(error):
            why = getattr(error, "verify_message", "")
            if why:
                advice = certificate_advice(why, named="the broker in url", whose="uplink")
                host = self._address.host
                return HoldError(f"the certificate of {host} is not accepted: {why.rstrip('.')}; {advice}")
            return TryLaterError(f"TLS with {self.where} failed: {printable(reason_of(error), REASON_CHARS_MAX)}")
        return UnreachableError(f"no connection to {self.where}: {printable(reason_of(error), REASON_CHARS_MAX)}")
