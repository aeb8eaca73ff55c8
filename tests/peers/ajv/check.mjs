// Reads what cases.lua wrote and says where ajv, or JavaScript's regular expressions, think otherwise.
import { readFileSync } from "node:fs";
import Ajv2020 from "ajv/dist/2020.js";

const ajv = new Ajv2020({ strict: false, validateFormats: false, logger: false });
const SHOWN = 5;
const found = { value: [], pattern: [], strict: [] };
const count = { value: 0, pattern: 0, strict: 0, fits: 0, matches: 0, unknown: 0 };
let seed;

function validates(schema, value) {
  const result = ajv.compile(schema)(value);
  ajv.removeSchema();
  return result;
}

const checks = {
  value(c) {
    if (c.fits) count.fits++;
    if (validates(c.schema, c.value) !== c.fits)
      found.value.push(`sluice says ${c.fits} (${c.faults.join("; ")}): ${JSON.stringify(c.schema)} of ${JSON.stringify(c.value)}`);
  },
  pattern(c) {
    if (c.matches === null) return void count.unknown++;
    if (c.matches) count.matches++;
    const says = new RegExp(c.pattern, "u").test(c.text);
    if (says !== c.matches) found.pattern.push(`sluice says ${c.matches}: /${c.pattern}/u on ${JSON.stringify(c.text)}`);
  },
  strict(c) {
    const closed = JSON.stringify(c.strict).includes('"additionalProperties":false');
    if (!closed || !validates(c.strict, c.value) || !c.fits || !validates(c.full, c.tidied))
      found.strict.push(`${JSON.stringify(c.full)} of ${JSON.stringify(c.value)}`);
  },
};

for (const line of readFileSync(process.argv[2], "utf8").split("\n")) {
  if (line === "") continue;
  const c = JSON.parse(line);
  if (c.seed !== undefined) seed = c.seed;
  else {
    count[c.kind]++;
    checks[c.kind](c);
  }
}

let n = 0;
function test(name, ok, why = []) {
  console.log(`${ok ? "ok" : "not ok"} ${++n} - ${name}`);
  if (!ok) for (const w of why.slice(0, SHOWN)) console.log(`# ${w}`);
}
test(`${count.value} values: ajv says the same`, found.value.length === 0, found.value);
test(`${count.pattern} patterns: JavaScript says the same`, found.pattern.length === 0, found.pattern);
test(`${count.strict} strict forms: what fits them fits`, found.strict.length === 0, found.strict);
test("the cases are worth something: yes and no are both common", count.fits > count.value / 5 &&
  count.fits < (count.value * 4) / 5 && count.matches > count.pattern / 5 && count.matches < (count.pattern * 4) / 5 &&
  count.unknown < count.pattern / 50, [JSON.stringify(count)]);
console.log(`1..${n}`);
if (Object.values(found).some((list) => list.length)) console.log(`# SEED=${seed} repeats it`);
process.exit(Object.values(found).some((list) => list.length) ? 1 : 0);
