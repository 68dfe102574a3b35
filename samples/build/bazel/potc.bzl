"""potc_compile: compiles an ONNX model to integers.

Bazel's actions read no dependency files, so every input is declared: the model with its external data, all rule files, the
samples. The action needs no network, no home folder and no configuration of the machine.
"""

def _potc_compile_impl(ctx):
    output = ctx.actions.declare_file(ctx.label.name + ".onnx")
    report = ctx.actions.declare_file(ctx.label.name + ".report.json")
    words = ctx.actions.args()
    words.add("compile")
    words.add(ctx.file.model)
    words.add("--isolated")
    words.add("--rules", ctx.file.rules if ctx.file.rules else ctx.attr.device)
    inputs = [ctx.file.model] + ctx.files.external_data + ctx.files.imports
    if ctx.file.rules:
        inputs.append(ctx.file.rules)
    if ctx.file.data:
        words.add("--data", ctx.file.data)
        inputs.append(ctx.file.data)
    words.add("-o", output)
    words.add("--report", report)
    words.add("-q")
    words.add_all(ctx.attr.options)
    words.use_param_file("@%s", use_always = True)
    words.set_param_file_format("shell")
    ctx.actions.run(
        executable = ctx.executable.potc,
        arguments = [words],
        inputs = inputs,
        outputs = [output, report],
        mnemonic = "PotcCompile",
        progress_message = "Compiling %{input} to integers",
    )
    return [DefaultInfo(files = depset([output])), OutputGroupInfo(report = depset([report]))]

potc_compile = rule(
    implementation = _potc_compile_impl,
    attrs = {
        "data": attr.label(allow_single_file = [".npz", ".npy"], doc = "Calibration samples."),
        "device": attr.string(default = "cpu", doc = "A shipped device, where there are no `rules`."),
        "external_data": attr.label_list(allow_files = True, doc = "Weight files that the model names."),
        "imports": attr.label_list(allow_files = [".rules"], doc = "Rule files that `rules` uses."),
        "model": attr.label(mandatory = True, allow_single_file = [".onnx"]),
        "options": attr.string_list(doc = "Further words of the command line."),
        "potc": attr.label(mandatory = True, executable = True, cfg = "exec", doc = "The program, as a py_binary."),
        "rules": attr.label(allow_single_file = [".rules"]),
    },
)
