"""`parfocal web`: the web page of a running daemon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parfocal.daemon.commands.talk import Address, Key

if TYPE_CHECKING:
    from parfocal.daemon.web.security import Tokens

PORT = 8570


def web(
    address: Address = None,
    key: Key = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="To serve the page at; 0 takes any.")] = PORT,
    bind: Annotated[str | None, typer.Option("--bind", help="HOST:PORT instead; loopback only.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    link: Annotated[bool, typer.Option("--link", help="Print the links of the page that is served there.")] = False,
) -> None:
    """Serve the web page of a running daemon on this computer, until Ctrl-C.

    Without --address it follows the daemon of this computer, and waits for one if there is none. Whoever has the
    first link it prints may operate; whoever has the second may only look.
    """
    import signal
    import sys

    from parfocal.daemon.web.security import split_bind
    from parfocal.daemon.web.serving import Serving, links_path, serve

    where = bind or f"127.0.0.1:{port}"
    if link:
        say_links(links_path(split_bind(where)[1]))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the links go with the page, however it ends
    try:
        serve(Serving(where, address, None, key, open_), _say)
    except KeyboardInterrupt:
        raise typer.Exit from None


def say_links(path: Path) -> None:
    """Print the links that a page wrote down; raises `PageError` where there is none."""
    from parfocal.daemon.web.security import read_tokens

    tokens, address = read_tokens(path)
    _say(address, tokens)


def _say(address: str, tokens: Tokens) -> None:
    typer.echo(f"operate  {tokens.link(address, 'operate')}")
    typer.echo(f"look     {tokens.link(address, 'observe')}")
