// Restate's side of the comparison: a service that is handed each callback's bytes, once durable, and posts them on.
//
//     restate.mjs PORT SINK
import http2 from "node:http2";
import * as restate from "@restatedev/restate-sdk";

// The SDK uses it, and Debian's Node is older than it.
Promise.withResolvers ??= function () {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
};

const [port, sink] = process.argv.slice(2);

const callbacks = restate.service({
  name: "callbacks",
  handlers: {
    take: restate.handlers.handler({ input: restate.serde.binary, accept: "*/*" }, async (ctx, body) => {
      await ctx.run("forward", async () => {
        const answer = await fetch(sink, { method: "POST", body });
        await answer.arrayBuffer();
        if (!answer.ok) throw new Error(`answered ${answer.status}`);
      });
    }),
  },
});

http2.createServer(restate.createEndpointHandler({ services: [callbacks] })).listen(Number(port), "127.0.0.1");
