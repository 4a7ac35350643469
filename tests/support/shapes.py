"""Trees to try out, for Hypothesis: names that are odd, files, links and directories in each other."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.support.layers_by_hand import Node, Shape

names = st.sampled_from(["a", "b c", "new\nline", "caf\u00e9", "b\udcffyte", "x" * 255])


files: st.SearchStrategy[Node] = st.tuples(st.sampled_from([0o644, 0o755, 0o600]), st.binary(max_size=20))


links: st.SearchStrategy[Node] = st.sampled_from(["a", "nowhere", "b c/a"])


nodes = st.recursive(st.one_of(files, files, links), lambda inner: st.dictionaries(names, inner, max_size=3))


shapes: st.SearchStrategy[Shape] = st.dictionaries(names, nodes, max_size=4)
