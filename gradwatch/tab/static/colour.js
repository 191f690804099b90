/**
 * Colours of the cells, made in OKLab (Ottosson 2020) so that equal steps look equal.
 *
 * The sequential map runs from dark blue to light yellow, the diverging one from blue over a pale
 * grey to orange: lightness alone tells the order in the first, and both hold for the common kinds
 * of colour blindness.
 */

export const LEVELS = 256;

/** Colours of the cells that hold no level, [red, green, blue] in 0..255. */
export const SPECIAL = {
  unobserved: [206, 226, 206],
  notFinite: [214, 20, 150],
  zero: [20, 20, 22],
  frozen: [120, 190, 180],
  idle: [196, 160, 214],
  noGradient: [150, 60, 40],
};

/**
 * The map of a scale.
 *
 * @param {"log"|"linear"|"log10"|"diverging"} scale
 * @returns {number[][]} `LEVELS` colours, lowest level first.
 */
export function colourMap(scale) {
  const ends = scale === "diverging" ? [BLUE, PALE, ORANGE] : [NIGHT, YELLOW];
  return Array.from({ length: LEVELS }, (_, index) => between(ends, index / (LEVELS - 1)));
}

/**
 * Relative luminance of a colour (WCAG 2.2), 0..1.
 *
 * @param {number[]} colour [red, green, blue] in 0..255.
 */
export function luminance([red, green, blue]) {
  const linear = (part) => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  };
  return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
}

/** A colour for CSS. */
export function css([red, green, blue]) {
  return `rgb(${red}, ${green}, ${blue})`;
}

const NIGHT = [0.28, -0.012, -0.085];
const YELLOW = [0.92, -0.015, 0.12];
const BLUE = [0.42, -0.03, -0.15];
const PALE = [0.93, 0, 0];
const ORANGE = [0.6, 0.12, 0.12];

function between(ends, share) {
  const place = share * (ends.length - 1);
  const left = Math.min(Math.floor(place), ends.length - 2);
  const right = ends[left + 1];
  return fromOklab(ends[left].map((part, axis) => part + (right[axis] - part) * (place - left)));
}

function fromOklab([lightness, a, b]) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map(asOctet);
}

function asOctet(linear) {
  const clamped = Math.min(Math.max(linear, 0), 1);
  const shown = clamped <= 0.0031308 ? 12.92 * clamped : 1.055 * clamped ** (1 / 2.4) - 0.055;
  return Math.round(255 * shown);
}
