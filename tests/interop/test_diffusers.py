"""Their pipelines, tiny and with random weights, sampled by EVODiff as their scheduler: equal to our own run."""

from __future__ import annotations

import sys
import warnings
from importlib.util import find_spec

import pytest
import torch

from condiff.core import RowRng, instant, trajectory
from condiff.process import Data, Flow, Gaussian, Noise, ProcessTime, Table, V, Velocity
from condiff.solvers import EVODiff, Released

if "torchvision" not in sys.modules and find_spec("torchvision"):
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # built for another torch than the one here: their models would not load for its sake
        sys.modules["torchvision"] = None

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers")
    from condiff.interop.diffusers import EVODiffScheduler

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def unet(channels=3):
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=channels, out_channels=channels, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=8,
    ).eval()  # fmt: skip


def ours(scheduler, process, target, answer, x, ending=None):
    """Run our own solver over the scheduler's own times; `answer(x, timestep)` is the network."""
    num = len(scheduler.timesteps)
    shift = 0.0 if isinstance(process.schedule, Flow) else 1.0
    times = [(float(step) + shift) / 1000 for step in scheduler.timesteps.double()]
    solver = EVODiff(*([ending] if ending else []), clock=ProcessTime(), num_steps=num)

    def denoiser(x, t, cond):
        return process.infer(x, t, answer(x, float(t) * 1000 - shift), target)

    grid = torch.tensor([*times, 0.0], dtype=torch.float64)
    for state in trajectory(process, denoiser, solver, x, grid, rng=RowRng(0, range(len(x)))):
        last = state.x
    return last


def theirs(scheduler, answer, x):
    for t in scheduler.timesteps:
        x = scheduler.step(answer(scheduler.scale_model_input(x, t), float(t)), t, x, return_dict=False)[0]
    return x


def stand_in(x, t):
    """An analytic network that reads state and time."""
    return torch.tanh(x * (1.0 + t / 1000)) * 0.7 + 0.1


KINDS = {"epsilon": Noise(), "v_prediction": V(), "sample": Data(), "flow_prediction": Velocity()}
TABLE = Gaussian(Table.linear())


@pytest.mark.parametrize("num", [1, 2, 5, 12, 30])
@pytest.mark.parametrize("kind", KINDS)
def test_every_prediction_type_takes_our_steps(kind, num):
    scheduler = EVODiffScheduler(prediction_type=kind)
    scheduler.set_timesteps(num)
    assert len(scheduler.timesteps) == num
    assert scheduler.order == 1
    assert scheduler.init_noise_sigma == 1.0
    process = Gaussian(Flow()) if kind == "flow_prediction" else TABLE
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    expected = ours(scheduler, process, KINDS[kind], stand_in, x)
    # The network is asked at timesteps in single precision.
    torch.testing.assert_close(theirs(scheduler, stand_in, x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"use_karras_sigmas": True}, {"use_lu_lambdas": False}, {"use_lu_lambdas": False, "timestep_spacing": "leading"},
     {"use_lu_lambdas": False, "timestep_spacing": "linspace"}, {"ending": "released"}, {"beta_schedule": "scaled_linear"}],
    ids=str,
)  # fmt: skip
def test_every_grid_falls_to_the_data_and_equals_our_run(options):
    scheduler = EVODiffScheduler(**options)
    scheduler.set_timesteps(7)
    steps = scheduler.timesteps.double()
    assert bool((steps[1:] < steps[:-1]).all())
    assert 0.0 <= float(steps[-1]) <= float(steps[0]) <= 999.0
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    process = Gaussian(Table.scaled_linear(1000, 1e-4, 0.02)) if "beta_schedule" in options else TABLE
    expected = ours(scheduler, process, Noise(), stand_in, x, Released() if "ending" in options else None)
    torch.testing.assert_close(theirs(scheduler, stand_in, x), expected, atol=1e-5, rtol=1e-5)


def test_grids_are_those_of_their_own_multistep_scheduler():
    own = diffusers.DPMSolverMultistepScheduler(use_lu_lambdas=True, final_sigmas_type="zero")
    mine = EVODiffScheduler.from_config(own.config)
    for scheduler in (own, mine):
        scheduler.set_timesteps(9)
    # Their ends are those of the same table; they round timesteps, so levels are compared.
    torch.testing.assert_close(mine.sigmas[[0, 8]], own.sigmas[[0, 8]], rtol=1e-3, atol=1e-4)
    assert mine.config.num_train_timesteps == own.config.num_train_timesteps
    plain = EVODiffScheduler(use_lu_lambdas=False)
    ddim = diffusers.DDIMScheduler(timestep_spacing="trailing")
    for scheduler in (plain, ddim):
        scheduler.set_timesteps(10)
    assert plain.timesteps.tolist() == ddim.timesteps.tolist()


def test_configurations_travel():
    ddpm = diffusers.DDPMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction")
    made = EVODiffScheduler.from_config(ddpm.config, ending="released")
    assert (made.config.beta_schedule, made.config.prediction_type) == ("scaled_linear", "v_prediction")
    assert made.config.ending == "released"
    torch.testing.assert_close(made.alphas_cumprod.float(), ddpm.alphas_cumprod, atol=1e-5, rtol=1e-5)
    flow = EVODiffScheduler.from_config(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config)
    assert (flow.config.prediction_type, flow.config.flow_shift) == ("flow_prediction", 3.0)
    again = EVODiffScheduler.from_config(flow.config)
    assert again.config == flow.config
    back = diffusers.DDIMScheduler.from_config(made.config)
    assert back.config.beta_schedule == "scaled_linear"


def test_a_configuration_is_saved_and_loaded(tmp_path):
    EVODiffScheduler(ending="predicted", beta_end=0.03).save_pretrained(tmp_path)
    made = EVODiffScheduler.from_pretrained(tmp_path)
    assert (made.config.ending, made.config.beta_end) == ("predicted", 0.03)


def test_noise_is_added_as_theirs_is():
    x, noise, t = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.tensor([0, 500, 999])
    own = diffusers.DDPMScheduler()
    torch.testing.assert_close(
        EVODiffScheduler().add_noise(x, noise, t), own.add_noise(x, noise, t), atol=1e-4, rtol=1e-4
    )
    flow = EVODiffScheduler(prediction_type="flow_prediction")
    torch.testing.assert_close(flow.scale_noise(x, torch.tensor([250.0]), noise), 0.75 * x + 0.25 * noise)


@pytest.mark.parametrize(
    ("options", "needle"),
    [({"prediction_type": "eps"}, "epsilon"), ({"ending": "ddim"}, "direct"), ({"beta_schedule": "sqrt"}, "trained_betas"),
     ({"timestep_spacing": "even"}, "linspace")],
)  # fmt: skip
def test_wrong_options_say_what_there_is(options, needle):
    with pytest.raises(ValueError, match=needle):
        EVODiffScheduler(**options)


def test_misuse_is_an_error():
    scheduler, x = EVODiffScheduler(), torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="call set_timesteps"):
        scheduler.step(x, 3, x)
    for num in (0, 1001, None):
        with pytest.raises(ValueError, match="1 to 1000"):
            scheduler.set_timesteps(num)
    scheduler.set_timesteps(1)
    scheduler.step(x, scheduler.timesteps[0], x)
    with pytest.raises(ValueError, match="all 1 steps"):
        scheduler.step(x, scheduler.timesteps[0], x)
    with pytest.raises(ValueError, match="mu"):
        EVODiffScheduler(prediction_type="flow_prediction", use_dynamic_shifting=True).set_timesteps(4)


def test_a_later_start_has_no_history():
    """Image to image: from the third node on, the run is that of the shorter grid."""
    scheduler, x = EVODiffScheduler(), torch.randn(1, 2, 4, 4, dtype=torch.float64)
    scheduler.set_timesteps(6)
    scheduler.set_begin_index(2)
    assert scheduler.begin_index == 2
    y = x
    for t in scheduler.timesteps[2:]:
        y = scheduler.step(stand_in(y, float(t)), t, y).prev_sample
    times = torch.tensor([*((float(t) + 1) / 1000 for t in scheduler.timesteps.double()[2:]), 0.0], dtype=torch.float64)

    def denoiser(x, t, cond):
        return TABLE.infer(x, t, stand_in(x, float(t) * 1000 - 1), Noise())

    *_, last = trajectory(TABLE, denoiser, EVODiff(clock=ProcessTime(), num_steps=6), x, times, rng=RowRng(0, [0]))
    torch.testing.assert_close(y, last.x, atol=1e-5, rtol=1e-5)
    assert scheduler.step_index == 6


def test_half_precision_and_learned_variance():
    scheduler, x = EVODiffScheduler(), torch.randn(1, 3, 4, 4)
    scheduler.set_timesteps(4)
    out = torch.randn(1, 6, 4, 4).to(torch.bfloat16)
    new = scheduler.step(out, scheduler.timesteps[0], x.to(torch.bfloat16)).prev_sample
    assert new.dtype == torch.bfloat16
    assert new.shape == (1, 3, 4, 4)


def test_a_unet_pipeline_equals_our_run_and_a_generator_repeats_it():
    net = unet()
    pipe = diffusers.DDPMPipeline(net, diffusers.DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = EVODiffScheduler.from_config(pipe.scheduler.config)

    def call(seed):
        made = torch.Generator().manual_seed(seed)
        return torch.from_numpy(pipe(2, generator=made, num_inference_steps=6, output_type="np").images)

    images = call(3)
    assert torch.equal(call(3), images)
    assert not torch.equal(call(4), images)
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))

    @torch.no_grad()
    def answer(x, t):
        return net(x, torch.tensor(t, dtype=torch.float32)).sample

    mine = ours(pipe.scheduler, TABLE, Noise(), answer, noise)
    expected = (mine / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=1e-4)


def test_a_dit_pipeline():
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=4,
        patch_size=2, num_embeds_ada_norm=1000, norm_num_groups=4,
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=4)
    pipe = diffusers.DiTPipeline(net, vae.eval(), diffusers.DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = EVODiffScheduler.from_config(pipe.scheduler.config)

    def call():
        made = torch.Generator().manual_seed(1)
        return torch.from_numpy(
            pipe([1, 2], guidance_scale=2.0, generator=made, num_inference_steps=5, output_type="np").images
        )

    images = call()
    assert bool(torch.isfinite(images).all())
    assert torch.equal(call(), images)
    # The decoded pictures are not blind to the sampler.
    pipe.scheduler = EVODiffScheduler.from_config(pipe.scheduler.config, ending="released")
    assert not torch.equal(call(), images)


def test_a_text_to_image_pipeline():
    transformers = pytest.importorskip("transformers")
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            hidden_size=16, intermediate_size=32, num_attention_heads=2, num_hidden_layers=1, vocab_size=50,
            max_position_embeddings=8, bos_token_id=0, eos_token_id=1,
        )
    ).eval()  # fmt: skip
    net = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4).eval()
    scheduler = diffusers.PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1)
    pipe = diffusers.StableDiffusionPipeline(vae, text, None, net, scheduler, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = EVODiffScheduler.from_config(pipe.scheduler.config)
    words = {"prompt_embeds": torch.randn(1, 8, 16), "negative_prompt_embeds": torch.randn(1, 8, 16)}

    def call(seed):
        made = torch.Generator().manual_seed(seed)
        return pipe(**words, num_inference_steps=4, height=8, width=8, generator=made, output_type="latent").images

    latents = call(0)
    assert latents.shape == (1, 4, 8, 8)
    assert torch.equal(call(0), latents)
    assert not torch.equal(call(1), latents)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def answer(x, t):
        both = torch.cat([words["negative_prompt_embeds"], words["prompt_embeds"]])
        null, cond = net(
            torch.cat([x, x]), torch.tensor(t, dtype=torch.float32), encoder_hidden_states=both
        ).sample.chunk(2)
        return null + 7.5 * (cond - null)

    process = Gaussian(Table.scaled_linear(1000, 1e-4, 0.02))
    # Guidance at 7.5 on random weights makes values in the hundreds.
    torch.testing.assert_close(ours(pipe.scheduler, process, Noise(), answer, noise), latents, atol=1e-2, rtol=1e-3)


def test_a_flow_matching_loop_with_their_transformer():
    """SD3's transformer under the loop that its pipeline runs: sigmas from the pipeline, velocity as the prediction."""
    net = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=16, out_channels=4, pos_embed_max_size=8,
    ).eval()  # fmt: skip
    scheduler = EVODiffScheduler.from_config(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config)
    scheduler.set_timesteps(sigmas=[1.0, 0.8, 0.6, 0.4, 0.2])
    torch.testing.assert_close(scheduler.sigmas[1], torch.tensor(3.0 * 0.8 / (1.0 + 2.0 * 0.8)))
    words, pooled, noise = torch.randn(2, 3, 16), torch.randn(2, 16), torch.randn(2, 4, 8, 8)

    @torch.no_grad()
    def answer(x, t):
        at = torch.full((2,), t)
        return net(x, timestep=at, encoder_hidden_states=words, pooled_projections=pooled).sample

    got = theirs(scheduler, answer, noise)
    assert bool(torch.isfinite(got).all())
    torch.testing.assert_close(got, ours(scheduler, Gaussian(Flow()), Velocity(), answer, noise), atol=1e-4, rtol=1e-4)
    assert float(instant(1.0)) == float(scheduler.timesteps[0]) / 1000
