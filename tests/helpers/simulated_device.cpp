// A device of torch whose memory is the CPU's, and which is strict where an accelerator is strict.
//
// It takes the place that torch keeps free for devices of others (PrivateUse1). Every function runs
// on the CPU on a copy and its result is copied back; arguments on two devices are refused as CUDA
// refuses them, and float64 is refused as Apple's MPS refuses it, if that is switched on.
// `simulated_device.py` compiles and loads it.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

namespace {

constexpr auto kSimulated = c10::DeviceType::PrivateUse1;
bool refuses_float64 = false;

c10::Device the_device() { return {kSimulated, 0}; }

bool is_simulated(const at::Tensor& t) { return t.defined() && t.device().type() == kSimulated; }

// Memory, streams and generators: what torch asks of a device before anything is computed.

struct Allocator final : c10::Allocator {
  static void free_memory(void* data) { std::free(data); }
  c10::DataPtr allocate(size_t n) override {
    void* data = std::malloc(n ? n : 1);
    return {data, data, &free_memory, the_device()};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_memory; }
  void copy_data(void* to, const void* from, std::size_t n) const override {
    std::memcpy(to, from, n);
  }
};
Allocator allocator;
REGISTER_ALLOCATOR(kSimulated, &allocator);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = kSimulated;
  c10::DeviceType type() const override { return kSimulated; }
  c10::Device exchangeDevice(c10::Device) const override { return the_device(); }
  c10::Device getDevice() const override { return the_device(); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override {
    return c10::Stream(c10::Stream::DEFAULT, the_device());
  }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// The device has random numbers of its own, as CUDA has.
const at::Generator& default_generator() {
  static const auto generator = at::make_generator<at::CPUGeneratorImpl>();
  return generator;
}

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return default_generator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::make_generator<at::CPUGeneratorImpl>();
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t n) const override {
    at::native::resize_bytes_cpu(storage.unsafeGetStorageImpl(), n);
  }
};
const bool has_hooks = (at::RegisterPrivateUse1HooksInterface(new Hooks()), true);

// The same memory, seen as a tensor of the CPU.
at::Tensor on_cpu(const at::Tensor& t) {
  if (!is_simulated(t)) return t;
  const auto n = static_cast<int64_t>(t.storage().nbytes() / t.element_size());
  auto all = at::from_blob(
      const_cast<void*>(t.storage().data()), {n}, t.options().device(c10::kCPU));
  return all.as_strided(t.sizes(), t.strides(), t.storage_offset());
}

// Making and copying tensors, and views, which share memory.

c10::ScalarType check_dtype(std::optional<c10::ScalarType> dtype) {
  const auto found = dtype.value_or(c10::get_default_dtype_as_scalartype());
  TORCH_CHECK_TYPE(
      !(refuses_float64 && found == c10::kDouble),
      "The simulated device doesn't support float64. Please use float32 instead.");
  return found;
}

at::Tensor empty(
    c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<c10::Device>, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(size, &allocator, keys, check_dtype(dtype), format);
}

at::Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout>, std::optional<c10::Device>, std::optional<bool>) {
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(size, stride, &allocator, keys, check_dtype(dtype));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

const at::Tensor& resize(
    const at::Tensor& t, c10::SymIntArrayRef size, std::optional<c10::MemoryFormat>) {
  const auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  const auto n = c10::multiply_integers(sizes) + t.storage_offset();
  const auto n_bytes = static_cast<size_t>(n) * t.element_size();
  auto* storage = t.storage().unsafeGetStorageImpl();
  if (storage->nbytes() < n_bytes) at::native::resize_bytes_cpu(storage, n_bytes);
  t.unsafeGetTensorImpl()->set_sizes_contiguous(sizes);
  return t;
}

at::Tensor& set_storage(
    at::Tensor& t, c10::Storage storage, c10::SymInt offset, c10::SymIntArrayRef size,
    c10::SymIntArrayRef stride) {
  t.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(storage));
  t.unsafeGetTensorImpl()->set_sizes_and_strides(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), offset.expect_int());
  return t;
}

at::Tensor& set_whole_storage(at::Tensor& t, c10::Storage storage) {
  const auto n = static_cast<int64_t>(storage.nbytes() / t.element_size());
  return set_storage(t, std::move(storage), 0, {n}, {1});
}

at::Scalar read(const at::Tensor& t) { return on_cpu(t).item(); }

// Convolutions of other devices have functions of their own.

at::Tensor convolve(
    const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
    c10::IntArrayRef stride, c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed,
    c10::IntArrayRef output_padding, int64_t groups) {
  const bool has_bias = bias.has_value() && bias->defined();
  TORCH_CHECK(
      is_simulated(x) && is_simulated(weight) && (!has_bias || is_simulated(*bias)),
      "Expected all tensors to be on the same device (convolution)");
  std::optional<at::Tensor> own_bias;
  if (has_bias) own_bias = on_cpu(*bias);
  return at::convolution(
             on_cpu(x), on_cpu(weight), own_bias, stride, padding, dilation, transposed,
             output_padding, groups)
      .to(the_device());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolve_backward(
    const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& weight,
    c10::IntArrayRef stride, c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed,
    c10::IntArrayRef output_padding, int64_t groups, std::array<bool, 3> mask) {
  TORCH_CHECK(
      is_simulated(gradient) && is_simulated(x) && is_simulated(weight),
      "Expected all tensors to be on the same device (convolution_backward)");
  const auto n_outputs = transposed ? weight.size(1) * groups : weight.size(0);
  auto [of_x, of_weight, of_bias] = at::convolution_backward(
      on_cpu(gradient), on_cpu(x), on_cpu(weight), c10::IntArrayRef({n_outputs}), stride, padding,
      dilation, transposed, output_padding, groups, mask);
  const auto moved = [](const at::Tensor& t) { return t.defined() ? t.to(the_device()) : t; };
  return {moved(of_x), moved(of_weight), moved(of_bias)};
}

// All other functions run on the CPU, once their arguments are where an accelerator wants them.

std::vector<at::Tensor> tensors_in(const c10::IValue& value) {
  if (value.isTensor()) return {value.toTensor()};
  if (value.isTensorList()) return value.toTensorVector();
  std::vector<at::Tensor> found;
  if (value.isOptionalTensorList())
    for (const auto& one : value.toOptionalTensorVector())
      if (one) found.push_back(*one);
  return found;
}

bool is_index_of(const std::string& function, size_t position) {
  return position == 1 && function.rfind("aten::", 0) == 0 &&
      function.find("index") != std::string::npos &&
      (function == "aten::index" || function.find("index_put") != std::string::npos);
}

void run(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto n = schema.arguments().size();
  const auto first = stack->size() - n;
  bool here = false, elsewhere = false;
  for (size_t i = 0; i < n; ++i) {
    for (const auto& t : tensors_in((*stack)[first + i])) {
      if (!t.defined()) continue;
      // Numbers may come from the CPU, and so may the indices of a tensor that is here.
      const bool index = is_index_of(schema.name(), i) && is_simulated((*stack)[first].toTensor());
      here |= is_simulated(t);
      elsewhere |= !is_simulated(t) && t.dim() > 0 && !index;
    }
  }
  TORCH_CHECK(
      !(here && elsewhere),
      "Expected all tensors to be on the same device, but found at least two devices, "
      "simulated:0 and cpu! (when checking the arguments of ", schema.name(), ")");
  for (size_t i = 0; here && i < n; ++i) {
    auto& value = (*stack)[first + i];
    if (schema.arguments()[i].name() == "generator" && value.isNone()) value = default_generator();
  }
  at::native::cpu_fallback(op, stack);
  // The first tensor decides where a result is: behind a number of the CPU it is moved here.
  const auto last = stack->size() - schema.returns().size();
  for (size_t i = 0; here && i < schema.returns().size(); ++i) {
    auto& value = (*stack)[last + i];
    const bool made = value.isTensor() && value.toTensor().defined() &&
        schema.returns()[i].alias_info() == nullptr;
    if (made && !is_simulated(value.toTensor())) value = value.toTensor().to(the_device());
  }
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&run>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", read);
  m.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  m.impl("unfold", TORCH_FN(at::native::unfold));
  m.impl("resize_", torch::CppFunction::makeFromUnboxedFunction(&resize));
  m.impl("set_.source_Storage_storage_offset", TORCH_FN(set_storage));
  m.impl("set_.source_Storage", TORCH_FN(set_whole_storage));
  m.impl("convolution_overrideable", TORCH_FN(convolve));
  m.impl("convolution_backward_overrideable", TORCH_FN(convolve_backward));
}

// What Python asks of the device.
TORCH_LIBRARY(simulated_device, m) {
  m.def("refuse_float64(bool refuse) -> ()", [](bool refuse) { refuses_float64 = refuse; });
  m.def("manual_seed(int seed) -> ()", [](int64_t seed) {
    auto generator = default_generator();
    generator.set_current_seed(static_cast<uint64_t>(seed));
  });
  m.def("get_rng_state() -> Tensor", [] { return default_generator().get_state(); });
  m.def("set_rng_state(Tensor state) -> ()", [](const at::Tensor& state) {
    auto generator = default_generator();
    generator.set_state(state);
  });
}

}  // namespace
