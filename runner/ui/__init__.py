"""Sessions for people: `live.Live(out, keys=..., answer=..., state=view.begin(spec)).follow(events)` on a terminal,
`plain.Plain(out, state=...)` elsewhere, then `summary.summary(view, ChangeCount(...))`; `safe.visible` for
whatever comes from outside.
"""
