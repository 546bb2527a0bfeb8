"""One self-contained HTML file a session: what was asked, what happened, and why."""
