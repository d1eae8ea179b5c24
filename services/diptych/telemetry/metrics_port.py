"""The HTTP port that metrics are read from."""

from prometheus_client import CollectorRegistry, start_http_server

from diptych.errors import FieldViolation, SettingInvalid

__all__ = ["MetricsServer", "open_metrics"]


class MetricsServer:
    """An HTTP server answering ``GET /metrics`` from its own thread."""

    def __init__(self, registry: CollectorRegistry, *, host: str, port: int) -> None:
        """Listen at once; port 0 takes a free one, see ``port``."""
        self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        self.port = int(self._server.server_port)

    def close(self) -> None:
        """Stop listening and wait for the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def open_metrics(
    registry: CollectorRegistry, *, host: str, port: int | None, field: str
) -> MetricsServer | None:
    """Return the open /metrics port, None where none is wanted.

    Raises:
        SettingInvalid: The port, which setting ``field`` names, cannot be bound.
    """
    if port is None:
        return None
    try:
        return MetricsServer(registry, host=host, port=port)
    except OSError as error:
        description = f"{host}:{port} cannot be bound: {error}"
        raise SettingInvalid([FieldViolation(field=field, description=description)]) from error
