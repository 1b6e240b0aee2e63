"""Whole tasks: pictures from words and words from pictures, with real small parts."""

import itertools

import numpy as np
import pytest
import torch
from jodi_pack.ddit_core.model.denoiser import make_published_sigmas
from jodi_pack.ddit_core.model.facts import RELEASED
from jodi_pack.ddit_core.picture import fit_picture
from jodi_pack.ddit_core.pipeline import DDiTPipeline
from jodi_pack.ddit_core.text.draft import (
    draft_caption,
    draft_question,
    draft_template,
    tokenize_prompt,
)
from jodi_pack.ddit_core.text.sampler import TextOptions
from jodi_pack.kit.errors import ImageError, Interrupted, JodiError, ShapeError, TextError
from jodi_pack.kit.sampling import draw_noise
from jodi_pack.tests.ddit_core.small import (
    READER,
    SMALL,
    T,
    encode,
    published,
    small_model,
    vae_decode,
    vae_encode,
    word_pipeline,
)
from jodi_pack.tests.helpers import randn
from PIL import Image


@pytest.fixture(scope="module")
def pipeline():
    return word_pipeline()


def pictures(batch=2, seed=0):
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def quick(pipeline):
    """Latents of 8 x 8 cells, so that no test waits for 512 pixels."""
    return RELEASED.scale_latents(vae_encode(pictures())), {"options": TextOptions(steps=6)}


class TestPictures:
    def test_equals_the_published_sampler(self, pipeline):
        """Euler from the stored noise, guidance, and the scale of the latents."""
        out = pipeline.generate(
            "red cat", "dog", size=(32, 48), steps=3, guidance=5.0, seed=4, length=6, batch=2
        )
        x = draw_noise((2, 5, 4, 6), 4).double()
        text, negative = (
            encode(torch.tensor([tokenize_prompt(p, 6, T)])).expand(2, -1, -1)
            for p in ("red cat", "dog")
        )
        sigmas = make_published_sigmas(3)
        for s, t in itertools.pairwise(sigmas):
            time = torch.full((2,), 1000 * s)
            one, other = (published(pipeline.transformer, x, time, f)[0] for f in (text, negative))
            x = x + (t - s) * (other + 5 * (one - other))
        expected = vae_decode(x / 1.5305 + 0.0609).clamp(0, 1)
        torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-4)

    def test_a_prompt_for_each_row_and_seeds(self, pipeline):
        size = {"size": (32, 32), "steps": 2, "length": 6}
        both = pipeline.generate(["red cat", "two dog"], seed=3, **size)
        alone = pipeline.generate("two dog", seed=4, **size)
        torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-5)

    def test_a_prompt_too_long(self, pipeline):
        with pytest.raises(TextError, match="where 5 and an end token fit"):
            pipeline.generate("cat " * 6, length=6)

    def test_stopping(self, pipeline):
        with pytest.raises(Interrupted):
            pipeline.generate("cat", size=(32, 32), length=6, callback=lambda info: False)

    def test_a_size_between_cells(self, pipeline):
        with pytest.raises(ShapeError, match="multiples of 16"):
            pipeline.generate("cat", size=(40, 32), steps=1, length=6)


class TestWords:
    def test_answers_follow_their_own_picture_and_question(self, pipeline, quick):
        latents, options = quick
        drafts = [draft_question(q, 16, T, short=False) for q in ("two cat", "red dog on table")]
        both = pipeline.write_from_latents(latents, drafts, seed=7, **options)
        for i in range(2):
            alone = pipeline.write_from_latents(
                latents[i : i + 1], drafts[i : i + 1], seed=7 + i, **options
            )
            assert alone.texts[0] == both.texts[i]
            assert torch.equal(alone.ids[0], both.ids[i])
            assert both.ids[i, : 4 + i].tolist() == list(drafts[i].ids[: 4 + i])

    def test_the_words_are_those_of_the_plain_network(self, pipeline, quick):
        """Every place at once, the likeliest token: what the plain network says at time 0."""
        latents, _ = quick
        options = TextOptions(steps=1, temperature=0.0, stop_at_end=False)
        draft = draft_caption(16, T)
        out = pipeline.write_from_latents(latents, [draft], options=options)
        features = encode(torch.tensor([draft.ids] * 2))
        logits = published(pipeline.transformer, latents, torch.zeros(2), features)[1]
        logits[..., T.vocabulary.mask] = -torch.inf
        assert torch.equal(out.ids, logits.argmax(-1))

    def test_progress_and_stopping(self, pipeline, quick):
        latents, options = quick
        seen = []
        draft = draft_template("A {blank:4} table", 16, T)
        result = pipeline.write_from_latents(latents, [draft], callback=seen.append, **options)
        assert all(text.startswith("A ") for step in seen for text in step.texts)
        assert "_" in seen[0].texts[0] and seen[-1].texts == result.texts
        assert sum(result.evaluations) >= len(seen) >= max(result.evaluations)
        with pytest.raises(Interrupted):
            pipeline.write_from_latents(latents, [draft], callback=lambda _: False, **options)

    def test_the_three_tasks(self, pipeline):
        options = {"options": TextOptions(steps=2)}
        one = pictures(1)
        assert len(pipeline.ask(one, ["two cat", "red dog"], short=False, **options).texts) == 2
        assert pipeline.caption(pictures(), **options).ids.shape == (2, 16)
        assert pipeline.caption(one, "a cat on the table", **options).ids[0, 0] == 3 + 9
        (text,) = pipeline.fill(one, "the {blank} on a {blank:2} table", **options).texts
        assert text.startswith("the ") and " on a " in text and text.endswith(" table")

    def test_numbers_that_do_not_match(self, pipeline, quick):
        with pytest.raises(ShapeError, match="2 pictures came with 3 texts"):
            pipeline.write_from_latents(quick[0], [draft_caption(16, T)] * 3)

    def test_an_empty_question_and_one_too_long(self, pipeline):
        with pytest.raises(TextError, match="empty"):
            pipeline.ask(pictures(1), " ")
        with pytest.raises(TextError, match="fit"):
            pipeline.ask(pictures(1), "cat " * 20, short=False)


def test_a_tokenizer_of_another_vocabulary():
    with pytest.raises(JodiError, match="knows 41 tokens, the tokenizer's vocabulary has 18"):
        DDiTPipeline(small_model(SMALL), encode, T)


def test_parts_that_are_not_there():
    bare = DDiTPipeline(small_model(READER), encode, T, length=16)
    with pytest.raises(JodiError, match="vae_encode"):
        bare.caption(pictures())
    with pytest.raises(JodiError, match="vae_decode"):
        bare.generate("cat")


class TestFitting:
    @pytest.mark.parametrize("size", [(40, 40), (64, 90), (90, 64), (20, 33)])
    def test_equals_the_published_transform(self, size):
        """PIL's bicubic to the shorter side, then the centre.

        The pixels are neither dark nor light, since PIL cuts off between its two passes.
        """
        pixels = torch.randint(90, 166, (*size, 3), generator=torch.Generator().manual_seed(1))
        image = Image.fromarray(pixels.numpy().astype(np.uint8))
        h, w = size
        short = min(size)
        w2, h2 = (32 * w // short, 32) if h == short else (32, 32 * h // short)
        image = image.resize((w2, h2), Image.Resampling.BICUBIC)
        left, top = round((w2 - 32) / 2), round((h2 - 32) / 2)
        expected = np.asarray(image.crop((left, top, left + 32, top + 32)))
        ours = fit_picture(pixels.permute(2, 0, 1)[None] / 255, 32)[0].permute(1, 2, 0)
        assert np.abs(ours.numpy() * 255 - expected).max() < 1.51  # PIL rounds twice

    def test_a_square_of_the_right_size_stays(self):
        picture = pictures(1)
        assert torch.equal(fit_picture(picture, 64), picture)

    def test_numbers_outside_a_picture_are_cut_off_and_broken_ones_refused(self):
        picture = torch.full((1, 3, 16, 16), 7.0)
        picture[..., 0] = -3.0
        assert fit_picture(picture, 16).unique().tolist() == [0.0, 1.0]
        picture[0, 1, 2, 3] = torch.nan
        with pytest.raises(ImageError, match="not finite"):
            fit_picture(picture, 16)

    def test_a_whole_picture_keeps_its_shape(self):
        assert fit_picture(torch.rand(1, 3, 64, 100), 32, whole=True).shape == (1, 3, 32, 48)

    def test_the_middle_of_a_very_long_picture_takes_no_more_memory(self):
        """The far ends are left out first, and the middle is the same."""
        long = torch.rand(1, 3, 2, 401, generator=torch.Generator().manual_seed(3))
        assert fit_picture(long, 16).shape == (1, 3, 16, 16)
        mirrored = fit_picture(long.flip(-1), 16).flip(-1)
        torch.testing.assert_close(fit_picture(long, 16), mirrored, rtol=0, atol=1e-5)
        tall = fit_picture(long.transpose(-1, -2), 16)
        torch.testing.assert_close(tall.transpose(-1, -2), fit_picture(long, 16))

    def test_a_long_picture_cannot_be_seen_whole(self, pipeline):
        with pytest.raises(ImageError, match=r"300 x 2 is too long and thin.*at most"):
            pipeline.caption(torch.rand(1, 3, 2, 300), whole=True)

    @pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (1, 3, 0, 8)])
    def test_what_is_no_picture(self, shape):
        with pytest.raises(ImageError, match="batch, 3"):
            fit_picture(torch.zeros(shape))

    def test_latents_go_back(self):
        x = randn(1, 16, 2, 2)
        torch.testing.assert_close(RELEASED.unscale_latents(RELEASED.scale_latents(x)), x)
        assert RELEASED.scale_latents(torch.tensor(1.0609)).item() == pytest.approx(1.5305)
