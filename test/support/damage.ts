/** Random damage to uploads, the same from the same seed. */

/** Numerical Recipes' linear congruential generator: the same damage on every machine. */
export function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** One byte replaced, a tail cut off, a stretch doubled, or a boundary put in. */
export function damage(body: Buffer, random: (below: number) => number): Buffer {
  const at = random(body.length);
  const [before, after] = [body.subarray(0, at), body.subarray(at)];
  const put = [
    () => [before, Buffer.from([random(256)]), after.subarray(1)],
    () => [before],
    () => [before, after.subarray(0, random(50)), after],
    () => [before, Buffer.from('\r\n--pisa-test-boundary\r\n'), after],
  ];
  return Buffer.concat(put[random(put.length)]?.() ?? []);
}
