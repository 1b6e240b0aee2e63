"""Prepared texts: found by content, for the same weights only."""

import torch
from jodi_pack.jodi_core.text_cache import TextCache, same_tensor, state_of_weights
from jodi_pack.tests.helpers import randn, relative_rms, tiny_pipeline, tiny_transformer


def test_found_by_content_and_forgotten_in_order_of_use():
    made = []
    cache = TextCache(entries=2)

    def get(seed):
        return cache.get((randn(3, seed=seed), None), lambda: made.append(seed) or seed)

    assert [get(1), get(2), get(1), get(3)] == [1, 2, 1, 3] and made == [1, 2, 3]
    assert get(1) == 1 and made == [1, 2, 3]  # used more lately than 2
    assert get(2) == 2 and made == [1, 2, 3, 2]


def test_other_weights_find_nothing():
    cache = TextCache()
    inputs = (torch.ones(2),)
    results = []
    for weights in ("a", "b", "a"):
        cache.weights = weights
        results.append(cache.get(inputs, object))
    assert results[0] is results[2] is not results[1]


def test_tensors_are_the_same_in_everything_but_identity():
    x = torch.ones(2, 3)
    assert same_tensor(x, x.clone()) and same_tensor(None, None)
    for other in (x + 1, x[:1], x.double(), x.to("meta"), None):
        assert not same_tensor(x, other) and not same_tensor(other, x)


def test_state_of_weights_changes_when_they_do():
    model = tiny_transformer()
    before = state_of_weights(model)
    assert state_of_weights(model) == before
    with torch.no_grad():
        model.blocks[1].cross_attn.kv_linear.weight.mul_(2)
    after = state_of_weights(model)
    assert after != before
    model.y_embedder.y_embedding = model.y_embedder.y_embedding.clone()
    assert state_of_weights(model) != after


def test_a_job_reads_a_known_prompt_once_and_learns_of_new_weights():
    pipeline = tiny_pipeline()
    reads = []
    pipeline.transformer.y_embedder.register_forward_hook(lambda *_: reads.append(1))
    job = {"steps": 2, "guidance": 3.0, "seed": 5}
    job["size"] = (4 * pipeline.factor, 3 * pipeline.factor)
    first = pipeline.generate("a red house", **job).latents
    assert len(reads) == 2  # the prompt and the negative prompt
    assert torch.equal(pipeline.generate("a red house", **job).latents, first)
    assert len(reads) == 2
    pipeline.generate("a blue house", **job)
    assert len(reads) == 3
    with torch.no_grad():
        pipeline.transformer.y_embedder.y_proj.fc2.weight.mul_(1.5)
    assert relative_rms(pipeline.generate("a red house", **job).latents, first) > 1e-4
