# Copyright (c) 2026, the nemo_dreamfusion authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The keys of NeMo v2.2.1's examples/multimodal/x_to_nerf/config, group by group, with the values that they had."""

MODULES = 'nemo.collections.multimodal.modules.nerf'
MLP = {'num_hidden_dims': 64, 'num_layers': 3, 'bias': True}
FUSED = {
    'otype': 'FullyFusedMLP',
    'activation': 'ReLU',
    'output_activation': 'None',
    'n_neurons': 64,
    'n_hidden_layers': 3,
}
TCNN_GRID = {
    'otype': 'HashGrid',
    'n_levels': 16,
    'n_features_per_level': 2,
    'log2_hashmap_size': 19,
    'base_resolution': 16,
    'interpolation': 'Smoothstep',
    'per_level_scale': None,
}
CIRCLE = {
    '_target_': 'nemo.collections.multimodal.data.nerf.circle_poses.CirclePosesDataset',
    'width': 800,
    'height': 800,
    'angle_overhead': 30,
    'angle_front': 60,
}
LOSS = {
    'lambda_sds': 1.0,
    'lambda_opacity': 0.0,
    'lambda_entropy': 1e-3,
    'lambda_orientation': 1e-2,
    'lambda_2d_normal_smooth': 0.0,
    'lambda_3d_normal_smooth': 0.0,
    'lambda_mesh_normal': 0.0,
    'lambda_mesh_laplacian': 0.0,
}

GROUPS = {
    'nerf': {
        'torchngp': {
            '_target_': f'{MODULES}.geometry.torchngp_nerf.TorchNGPNerf',
            **{'num_input_dims': 3, 'bound': 1, 'density_activation': 'exp', 'blob_radius': 0.2, 'blob_density': 5},
            'normal_type': 'central_finite_difference',
            'encoder_cfg': {
                **{'encoder_type': 'hashgrid', 'encoder_max_level': None, 'log2_hashmap_size': 19},
                **{'desired_resolution': 2048, 'interpolation': 'smoothstep'},
            },
            **{'sigma_net_num_output_dims': 1, 'sigma_net_cfg': MLP},
            **{'features_net_num_output_dims': 3, 'features_net_cfg': MLP},
        },
        'tcnn': {
            '_target_': f'{MODULES}.geometry.tcnn_nerf.TCNNNerf',
            **{'num_input_dims': 3, 'bound': 1, 'density_activation': 'softplus', 'blob_radius': 0.5},
            **{'blob_density': 10, 'normal_type': 'central_finite_difference', 'encoder_cfg': TCNN_GRID},
            **{'sigma_net_num_output_dims': 1, 'sigma_net_cfg': FUSED},
            **{'features_net_num_output_dims': 3, 'features_net_cfg': FUSED},
        },
    },
    'background': {
        'static': {'_target_': f'{MODULES}.background.static_background.StaticBackground', 'background': [0, 0, 1]},
        'random': {
            '_target_': f'{MODULES}.background.random_background.RandomBackground',
            **{'base_background': [1, 1, 1], 'random_ratio': 0.5},
        },
        'torchngp': {
            '_target_': f'{MODULES}.background.torchngp_background.TorchNGPBackground',
            **{'encoder_type': 'frequency', 'encoder_input_dims': 3, 'encoder_multi_res': 6, 'num_output_dims': 3},
            'net_cfg': {'num_hidden_dims': 32, 'num_layers': 2, 'bias': True},
        },
        'tcnn': {
            '_target_': f'{MODULES}.background.tcnn_background.TCNNBackground',
            **{'bound': 1, 'encoder_num_input_dims': 3, 'encoder_cfg': TCNN_GRID},
            'background_net_num_output_dims': 3,
            'background_net_cfg': {**FUSED, 'n_neurons': 32, 'n_hidden_layers': 2},
        },
    },
    'material': {'basic_shading': {'_target_': f'{MODULES}.materials.basic_shading.BasicShading'}},
    'renderer': {
        'torchngp_raymarching': {
            '_target_': f'{MODULES}.renderers.torchngp_volume_renderer.TorchNGPVolumeRenderer',
            **{'bound': 1, 'update_interval': 16, 'grid_resolution': 128, 'density_thresh': 10},
            **{'max_steps': 1024, 'dt_gamma': 0},
        },
        'nerfacc': {
            '_target_': f'{MODULES}.renderers.nerfacc_volume_renderer.NerfaccVolumeBaseRenderer',
            **{'grid_resolution': 128, 'grid_levels': 3, 'bound': 1, 'render_step_size': 1e-3},
            **{'near_plane': 0.2, 'cone_angle': 0.004, 'alpha_thre': 1e-2},
        },
        'nvdiffrast': {
            '_target_': f'{MODULES}.renderers.nvdiffrast_renderer.NVDiffRastRenderer',
            **{'bound': 1, 'grid_resolution': 128, 'density_thresh': 10.0, 'update_interval': 16},
            'quartet_file': '/results/tets/128_tets.npz',
        },
    },
    'guidance': {
        'sd_huggingface': {
            '_target_': f'{MODULES}.guidance.stablediffusion_huggingface_pipeline.StableDiffusion',
            **{'precision': 16, 'model_key': 'stabilityai/stable-diffusion-2-1-base', 't_range': [0.02, 0.98]},
        },
        'sd_nemo': {
            '_target_': f'{MODULES}.guidance.stablediffusion_nemo_pipeline.StableDiffusion',
            **{'precision': 16, 'checkpoint': '/sd.nemo', 'sampler_type': 'DDIM', 't_range': [0.02, 0.98]},
        },
        'sd_trt': {
            '_target_': f'{MODULES}.guidance.stablediffusion_trt_pipeline.StableDiffusion',
            **{'checkpoint': '/sd.nemo', 'plan_dir': '/plan', 'sampler_type=': 'DDIM"', 't_range': [0.02, 0.98]},
        },
    },
    'loss': {
        'dreamfusion': LOSS,
        'dmtet': {**LOSS, 'lambda_mesh_normal': 0.5, 'lambda_mesh_laplacian': 0.5},
    },
}

MODEL = {
    '_target_': 'nemo.collections.multimodal.models.nerf.dreamfusion.DreamFusion',
    **{'resume_from_checkpoint': None, 'prompt': 'a hamburger', 'negative_prompt': ''},
    **{'front_prompt': ', front view', 'side_prompt': ', side view', 'back_prompt': ', back view'},
    **{'update_extra_interval': 16, 'guidance_scale': 100, 'export_video': False, 'iters': 10000},
    **{'latent_iter_ratio': 0.2, 'albedo_iter_ratio': 0.0, 'min_ambient_ratio': 0.1, 'textureless_ratio': 0.2},
    'optim': {
        **{'name': 'adan', 'lr': 5e-3, 'eps': 1e-8, 'weight_decay': 2e-5},
        **{'max_grad_norm': 5.0, 'foreach': False},
    },
    'data': {
        '_target_': 'data.AggregatorDataModule',
        **{'train_batch_size': 1, 'train_shuffle': False},
        'train_dataset': {
            '_target_': 'nemo.collections.multimodal.data.nerf.random_poses.RandomPosesDataset',
            **{'internal_batch_size': 100, 'width': 64, 'height': 64, 'radius_range': [3.0, 3.5]},
            **{'theta_range': [45, 105], 'phi_range': [-180, 180], 'fovx_range': [10, 30], 'fovy_range': [10, 30]},
            **{'jitter': False, 'jitter_center': 0.2, 'jitter_target': 0.2, 'jitter_up': 0.02},
            **{'uniform_sphere_rate': 0, 'angle_overhead': 30, 'angle_front': 60},
        },
        **{'val_batch_size': 1, 'val_shuffle': False, 'val_dataset': {**CIRCLE, 'size': 5}},
        **{'test_batch_size': 1, 'test_shuffle': False, 'test_dataset': {**CIRCLE, 'size': 100}},
    },
}

MAIN = {
    **{'name': 'DreamFusion', 'seed': 2023, 'mode': 'fit'},
    **{'mesh_fname': '/results/mesh.obj', 'mesh_resolution': 128, 'enable_benchmark': False},
    'benchmark_callback': {'_target_': 'benchmark_callback.BenchmarkCallback', 'log_every_n_steps': 1},
    'trainer': {
        **{'devices': 1, 'num_nodes': 1, 'precision': 16, 'max_steps': 10000, 'accelerator': 'gpu'},
        **{'enable_checkpointing': False, 'logger': False, 'log_every_n_steps': 1, 'val_check_interval': 100},
        **{'accumulate_grad_batches': 1, 'benchmark': False, 'enable_model_summary': True},
    },
    'exp_manager': {
        **{'name': 'DreamFusion', 'exp_dir': '/results'},
        **{'create_tensorboard_logger': False, 'create_wandb_logger': False},
        'wandb_logger_kwargs': {
            **{'project': 'dreamfusion', 'group': 'nemo-df', 'name': 'DreamFusion', 'resume': True},
        },
        'create_checkpoint_callback': True,
        'checkpoint_callback_params': {
            **{'every_n_epochs': 0, 'every_n_train_steps': 1000, 'monitor': 'loss'},
            **{'filename': 'DreamFusion-{step}', 'save_top_k': -1, 'always_save_nemo': False},
        },
        **{'resume_if_exists': True, 'resume_ignore_no_checkpoint': True},
    },
}


def configuration(**choices: str) -> dict:
    """The whole configuration of that release with its defaults, or with other choices of a group."""
    chosen = {
        **{'nerf': 'torchngp', 'background': 'static', 'material': 'basic_shading'},
        **{'renderer': 'torchngp_raymarching', 'guidance': 'sd_huggingface', 'loss': 'dreamfusion'},
        **choices,
    }
    return {**MAIN, 'model': {**MODEL, **{group: GROUPS[group][name] for group, name in chosen.items()}}}
