// The light of the viewer: a small environment (RGBE, 64 x 32) with one bright spot where the sliders say, and ambient light.
const viewer = document.querySelector('model-viewer');
const control = (name) => document.getElementById(name);
const WIDTH = 64, HEIGHT = 32, SHARPNESS = 30; // of the spot: radiance exp(SHARPNESS (cos - 1))

function environment(azimuth, elevation, ambient) {
  const [a, e] = [azimuth * Math.PI / 180, elevation * Math.PI / 180];
  const light = [Math.sin(a) * Math.cos(e), Math.sin(e), Math.cos(a) * Math.cos(e)];
  const header = new TextEncoder().encode(`#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y ${HEIGHT} +X ${WIDTH}\n`);
  const bytes = new Uint8Array(header.length + WIDTH * HEIGHT * 4);
  bytes.set(header);
  for (let row = 0; row < HEIGHT; row++) {
    for (let column = 0; column < WIDTH; column++) {
      const [theta, phi] = [((column + 0.5) / WIDTH - 0.5) * 2 * Math.PI, (0.5 - (row + 0.5) / HEIGHT) * Math.PI];
      const d = [Math.cos(theta) * Math.cos(phi), Math.sin(phi), Math.sin(theta) * Math.cos(phi)];
      const facing = d[0] * light[0] + d[1] * light[1] + d[2] * light[2];
      const radiance = 0.02 + ambient + (1 - ambient) * 0.5 * SHARPNESS * Math.exp(SHARPNESS * (facing - 1));
      const exponent = Math.floor(Math.log2(radiance)) + 1;
      const mantissa = Math.min(255, Math.floor(radiance / 2 ** exponent * 256));
      bytes.set([mantissa, mantissa, mantissa, exponent + 128], header.length + 4 * (row * WIDTH + column));
    }
  }
  return `data:image/vnd.radiance;base64,${btoa(String.fromCharCode(...bytes))}#.hdr`;
}

function relight() {
  const value = (name) => Number(control(name).value);
  viewer.environmentImage = environment(value('azimuth'), value('elevation'), value('ambient'));
}

if (viewer) {
  for (const name of ['azimuth', 'elevation', 'ambient']) control(name).addEventListener('change', relight);
  control('backdrop').addEventListener('input', (event) => { viewer.style.backgroundColor = event.target.value; });
  control('turning').addEventListener('change', (event) => { viewer.autoRotate = event.target.checked; });
  viewer.addEventListener('load', () => { document.documentElement.dataset.asset = 'loaded'; });
  relight();
}
