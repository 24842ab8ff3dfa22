% Makes golden.json, the scores that the tests compare with, in GNU Octave or MATLAB:
%
%   mkdir /tmp/pairs && python pairs.py /tmp/pairs
%   octave --eval "make_golden('/tmp/pairs', 'golden.json')"
%
% Needs Octave 7 or later with its image package (Debian: octave, octave-image), for rgb2ycbcr and padarray.

function make_golden(folder, output)
  if exist('OCTAVE_VERSION', 'builtin')
    pkg load image
  end
  golden.made_with = strtrim(['GNU Octave ' version]);
  golden.luma = luma_of_colours();
  golden.pairs = {};
  names = dir(fullfile(folder, '*.txt'));
  for i = 0:numel(names) - 1
    degraded = imread(fullfile(folder, sprintf('%d_degraded.png', i)));
    target = imread(fullfile(folder, sprintf('%d_target.png', i)));
    y_degraded = luma(degraded);
    y_target = luma(target);
    scores.name = strtrim(fileread(fullfile(folder, sprintf('%d.txt', i))));
    scores.luma_mean = mean(y_target(:));
    scores.luma_psnr = psnr_255(y_degraded, y_target);
    scores.luma_ssim = ssim_2004(y_degraded, y_target);
    scores.rgb_psnr = psnr_255(double(degraded), double(target));
    scores.volume_ssim = ssim_volume(double(degraded), double(target));
    golden.pairs{end + 1} = scores;
  end
  file = fopen(output, 'w');
  fprintf(file, '%s\n', jsonencode(golden));
  fclose(file);
end

function rows = luma_of_colours()
  % [R G B Y] for every colour on a grid.
  steps = uint8(0:51:255);
  rows = zeros(0, 4);
  for r = steps
    for g = steps
      for b = steps
        rows(end + 1, :) = double([r g b luma(cat(3, r, g, b))]);
      end
    end
  end
end

function y = luma(rgb)
  ycbcr = rgb2ycbcr(rgb);
  y = double(ycbcr(:, :, 1));
end

function db = psnr_255(a, b)
  db = 10 * log10(255^2 / mean((a(:) - b(:)).^2));
end

function value = ssim_2004(a, b)
  % Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment", IEEE TIP 2004, equation 13.
  [x, y] = meshgrid(-5:5);
  window = exp(-(x.^2 + y.^2) / (2 * 1.5^2));
  blur = @(z) conv2(z, window / sum(window(:)), 'valid');
  value = mean_ssim(a, b, blur);
end

function value = ssim_volume(a, b)
  % The same with a window that also reaches over the third axis, on arrays with replicated borders.
  [x, y, z] = meshgrid(-5:5);
  window = exp(-(x.^2 + y.^2 + z.^2) / (2 * 1.5^2));
  blur = @(v) convn(padarray(v, [5 5 5], 'replicate'), window / sum(window(:)), 'valid');
  value = mean_ssim(a, b, blur);
end

function value = mean_ssim(a, b, blur)
  c1 = (0.01 * 255)^2;
  c2 = (0.03 * 255)^2;
  mean_a = blur(a);
  mean_b = blur(b);
  variance_a = blur(a .* a) - mean_a.^2;
  variance_b = blur(b .* b) - mean_b.^2;
  covariance = blur(a .* b) - mean_a .* mean_b;
  map = (2 * mean_a .* mean_b + c1) .* (2 * covariance + c2) ./ ...
        ((mean_a.^2 + mean_b.^2 + c1) .* (variance_a + variance_b + c2));
  value = mean(map(:));
end
