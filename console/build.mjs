// Builds the console's pages into serving/console/static, reproducibly: the same sources give the same bytes.
// build.json there holds the hash of the sources, by which a test tells a stale build.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "..", "serving", "console", "static");
const assets = join(out, "assets");

/** All files below a folder. */
function files(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? files(path) : [path];
  });
}

const digest = (content) => createHash("sha256").update(content).digest("hex");

/** The hash over name and content of everything that the build is made from. */
function hashOfSources() {
  const own = ["build.mjs", "package.json", "package-lock.json", "tsconfig.json"].map((name) => join(here, name));
  const lines = [...own, ...files(join(here, "src"))].map(
    (path) => `${relative(here, path).replaceAll("\\", "/")} ${digest(readFileSync(path))}\n`,
  );
  return digest(lines.sort().join(""));
}

const built = await build({
  entryPoints: [join(here, "src", "main.tsx")],
  bundle: true,
  minify: true,
  format: "esm",
  target: ["chrome123", "firefox121", "safari17.5"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  charset: "utf8",
  write: false,
  outdir: assets,
  define: { "process.env.NODE_ENV": '"production"' },
});

rmSync(out, { recursive: true, force: true });
mkdirSync(assets, { recursive: true });
const names = {};
for (const { path, contents } of built.outputFiles) {
  const kind = path.endsWith(".css") ? "css" : "js";
  names[kind] = `console-${digest(contents).slice(0, 12)}.${kind}`;
  writeFileSync(join(assets, names[kind]), contents);
}
const page = readFileSync(join(here, "src", "index.html"), "utf8")
  .replace("{script}", `/console/assets/${names.js}`)
  .replace("{style}", `/console/assets/${names.css}`);
writeFileSync(join(out, "index.html"), page);
writeFileSync(join(out, "icon.svg"), readFileSync(join(here, "src", "icon.svg")));
writeFileSync(join(out, "licences.txt"), licences());
writeFileSync(join(out, "build.json"), `${JSON.stringify({ sources: hashOfSources() })}\n`);

/** The licences of the libraries that are part of the build, which each copy must carry. */
function licences() {
  return ["preact", "uplot"]
    .map((name) => {
      const folder = join(here, "node_modules", name);
      const { version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
      return `${name} ${version}\n\n${readFileSync(join(folder, "LICENSE"), "utf8").trim()}\n`;
    })
    .join("\n\n");
}
