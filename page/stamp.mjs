// Writes the fingerprint of the sources beside the built files: tests/serve/test_page.py compares the two.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";

const sources = ["index.html", "vite.config.ts", "tsconfig.json", "package.json", ...readdirSync("src").map((name) => `src/${name}`)];
const hash = createHash("sha256");
for (const name of sources.sort()) hash.update(name).update("\0").update(readFileSync(name)).update("\0");
writeFileSync("../src/condiff/serve/web/sources.json", JSON.stringify({ sha256: hash.digest("hex") }) + "\n");
