// Numbers as the page's templates show them, and exact intervals of shares.
const get = (id) => root.getElementById(id);
const number = (count) => count.toLocaleString("en-US");
const percent = (share) => {
  const value = 100 * share;
  const tie = value * 4 % 4 === 1; // .25 lies in the middle: Python rounds to the even digit, toFixed up
  return tie ? (Math.floor(value) + 0.2).toFixed(1) : value.toFixed(1);
};

const LANCZOS = [676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059, 12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7];
const lgamma = (z) => { // of z >= 0.5
  const t = z + 6.5;
  const sum = LANCZOS.reduce((total, c, i) => total + c / (z + i), 0.99999999999980993);
  return 0.5 * Math.log(2 * Math.PI) + (z - 0.5) * Math.log(t) - t + Math.log(sum);
};

// The regularised incomplete beta function, by its continued fraction (Lentz).
const betainc = (a, b, x, beta = lgamma(a) + lgamma(b) - lgamma(a + b)) => {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - betainc(b, a, 1 - x, beta);
  const tiny = 1e-300;
  let c = 1, d = 1 - (a + b) * x / (a + 1);
  d = 1 / (Math.abs(d) < tiny ? tiny : d);
  let f = d;
  for (let m = 1; m < 10000; m += 1) {
    const steps = [m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))];
    let delta = 1;
    for (const step of steps) {
      d = 1 + step * d; d = 1 / (Math.abs(d) < tiny ? tiny : d);
      c = 1 + step / c; c = Math.abs(c) < tiny ? tiny : c;
      delta = c * d;
      f *= delta;
    }
    if (Math.abs(delta - 1) < 1e-12) break;
  }
  return Math.exp(a * Math.log(x) + b * Math.log1p(-x) - beta) * f / a;
};

// Its inverse in x: Newton's steps within a bracket that shrinks.
const betaincinv = (a, b, q) => {
  const beta = lgamma(a) + lgamma(b) - lgamma(a + b);
  let low = 0, high = 1, x = a / (a + b);
  for (let i = 0; i < 60 && high - low > 1e-13; i += 1) {
    const over = betainc(a, b, x, beta) - q;
    if (over > 0) high = x; else low = x;
    const slope = Math.exp((a - 1) * Math.log(x) + (b - 1) * Math.log1p(-x) - beta);
    const next = x - over / slope;
    if (Math.abs(next - x) < 1e-10) return next;
    x = next > low && next < high ? next : (low + high) / 2;
  }
  return x;
};

// 95 % (Clopper and Pearson 1934).
const exactInterval = (part, whole) => [
  part === 0 ? 0 : betaincinv(part, whole - part + 1, 0.025),
  part === whole ? 1 : betaincinv(part + 1, whole - part, 0.975),
];
