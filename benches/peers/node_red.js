// Node-RED's side of the comparison: settings, with what the flow in node_red.json needs. PORT, DATABASE and SINK are in the
// environment.
module.exports = {
  uiHost: "127.0.0.1",
  uiPort: Number(process.env.PORT),
  flowFile: "flows.json",
  credentialSecret: false,
  diagnostics: { enabled: false },
  telemetry: { enabled: false, updateNotification: false },
  logging: { console: { level: "warn" } },
};
