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

"""Import a .glb into Blender and render it without light from a given camera; run by test_foreign_programs.py.

python render_in_blender.py mesh.glb camera.json picture.png
"""

import json
import sys

import bpy
from mathutils import Matrix

UP = Matrix(((1, 0, 0, 0), (0, 0, -1, 0), (0, 1, 0, 0), (0, 0, 0, 1)))  # from y up to Blender's z up


def show_colors_as_light():
    """Connect what the importer made the base colour to an emission, so that no light is needed."""
    for material in bpy.data.materials:
        nodes, links = material.node_tree.nodes, material.node_tree.links
        surface = next(node for node in nodes if node.type == 'BSDF_PRINCIPLED')
        output = next(node for node in nodes if node.type == 'OUTPUT_MATERIAL')
        emission = nodes.new('ShaderNodeEmission')
        links.new(surface.inputs['Base Color'].links[0].from_socket, emission.inputs['Color'])
        links.new(emission.outputs[0], output.inputs['Surface'])


def main(mesh, camera_file, picture):
    with open(camera_file, encoding='utf-8') as file:
        camera = json.load(file)
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.import_scene.gltf(filepath=mesh)
    show_colors_as_light()
    data = bpy.data.cameras.new('camera')
    data.sensor_fit, data.angle_y = 'VERTICAL', camera['fov_y_rad']
    eye = bpy.data.objects.new('camera', data)
    eye.matrix_world = UP @ Matrix(camera['camera_to_world'])
    scene = bpy.context.scene
    scene.collection.objects.link(eye)
    scene.camera = eye
    scene.render.engine, scene.cycles.device, scene.cycles.samples = 'CYCLES', 'CPU', 16
    scene.cycles.use_denoising, scene.render.threads_mode, scene.render.threads = False, 'FIXED', 1
    scene.render.resolution_x = scene.render.resolution_y = camera['size']
    scene.render.film_transparent, scene.view_settings.view_transform = True, 'Standard'
    scene.render.filepath, scene.render.image_settings.color_mode = picture, 'RGBA'
    bpy.ops.render.render(write_still=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
