"""Compiled blocks give what eager ones give, whatever the jobs are and however they change."""

import pytest
import torch
from jodi_pack.tests.helpers import relative_rms, tiny_pipeline

JOBS = (
    (["image"], {}, "a red house", 3.0, (3, 4)),
    (["image", "depth"], {}, "a blue tree and the sky", 3.0, (3, 4)),
    (["depth"], {"image": 1}, "", 1.0, (5, 3)),
    (["image"], {"depth": 2, "edge": 3}, "the sky", 1.0, (4, 4)),
    (["image"], {}, "tree", 3.0, (3, 4)),
)


def run(pipeline, generate, conditions, prompt, guidance, grid):
    size = tuple(side * pipeline.factor for side in grid)
    pictures = {
        name: torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))
        for name, seed in conditions.items()
    }
    plan = pipeline.plan(generate, conditions)
    return pipeline.run(
        plan, conditions=pictures, prompt=prompt, size=size, steps=2, guidance=guidance, seed=3
    ).latents


@pytest.mark.slow
def test_changing_jobs_give_what_they_give_without():
    expected = [run(tiny_pipeline(), *job) for job in JOBS]
    compiled = tiny_pipeline().compile(kinds=2, backend="eager")
    try:
        for job, latents in zip(JOBS, expected, strict=True):
            assert relative_rms(run(compiled, *job), latents) < 1e-5
            assert len(compiled._compiled.seen) <= 2
    finally:
        torch.compiler.reset()


@pytest.mark.slow
def test_which_domains_are_active_makes_no_other_kind_of_job():
    compiled = tiny_pipeline().compile(backend="eager")
    try:
        for label in ("depth", "normal", "edge"):
            run(compiled, [label], {"image": 1}, "", 1.0, (3, 4))
        assert len(compiled._compiled.seen) == 1
        run(compiled, ["depth", "edge"], {"image": 1}, "", 1.0, (3, 4))
        run(compiled, ["image"], {"depth": 1}, "tree", 1.0, (3, 4))
        assert len(compiled._compiled.seen) == 3
    finally:
        torch.compiler.reset()


@pytest.mark.slow
def test_it_does_compile():
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = tiny_pipeline().compile(backend=backend)
    try:
        run(compiled, *JOBS[0])
        first = len(graphs)
        assert first > 0
        run(compiled, *JOBS[0])
        assert len(graphs) == first  # the same kind of job compiles nothing
    finally:
        torch.compiler.reset()
