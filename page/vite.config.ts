import { defineConfig } from "vite";

// The built files are committed and go into the wheel, so their names carry no hash and nothing is fetched at run time.
export default defineConfig({
  base: "./",
  build: {
    outDir: "../src/condiff/serve/web",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    rollupOptions: {
      output: { entryFileNames: "page.js", assetFileNames: "page[extname]" },
    },
  },
});
