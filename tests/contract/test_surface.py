"""Names that users, dashboards and programs rely on: a new one is added to a list on purpose."""

from diptych.inference.settings import InferenceSettings
from diptych.settings import SharedSettings
from diptych.telemetry.metrics import METRIC_NAMES
from diptych.telemetry.training_metrics import TRAINING_METRIC_NAMES
from diptych.training.settings import TrainingSettings
from diptych.v1 import (
    adapters_pb2,
    embedding_cache_pb2,
    inference_pb2,
    training_pb2,
    types_pb2,
)

SHARED_VARIABLES = {"DIPTYCH_CONFIG", "DIPTYCH_HOME", "DIPTYCH_LOG_LEVEL", "DIPTYCH_OTLP_ENDPOINT"}
INFERENCE_SETTINGS = {
    "adapter_disk_bytes",
    "adapter_host_bytes",
    "adapter_import_dir",
    "adapter_import_hub",
    "adapter_import_prefixes",
    "adapter_lines",
    "adapter_max_bytes",
    "adapter_slice_s",
    "adapters_dir",
    "adapters_store",
    "auth_tokens_file",
    "base",
    "base_family",
    "base_revision",
    "device",
    "dtype",
    "grace_s",
    "health_port",
    "host",
    "hub_endpoint",
    "max_adapters",
    "max_images",
    "max_inline_bytes",
    "max_pixels",
    "max_prompt_bytes",
    "max_rows",
    "max_side",
    "max_steps",
    "max_waiting",
    "metrics_port",
    "num_slots",
    "port",
    "preview_decoder",
    "prompt_cache_bytes",
    "prompt_cache_peer",
    "prompt_cache_peer_token",
    "refiner",
    "refiner_family",
    "refiner_peer",
    "refiner_peer_token",
    "refiner_revision",
    "s3_endpoint",
    "tokenizer_dir",
    "trusted_peers",
}
TRAINING_SETTINGS = {
    "adapters_store",
    "auth_tokens_file",
    "cache_address",
    "cache_token_file",
    "checkpoint_url",
    "dataset_dir",
    "dataset_prefixes",
    "device",
    "grace_s",
    "health_port",
    "heartbeat_timeout_s",
    "host",
    "lease_s",
    "ledger_url",
    "max_active_jobs",
    "max_attempts",
    "max_running",
    "max_spec_bytes",
    "metrics_port",
    "model_dir",
    "model_hub",
    "model_prefixes",
    "port",
    "retry_backoff_s",
    "s3_endpoint",
}
METRICS = {
    "diptych_adapter_active",
    "diptych_adapter_bytes",
    "diptych_adapter_evictions_total",
    "diptych_adapter_hits_total",
    "diptych_adapter_lines",
    "diptych_adapter_lines_used",
    "diptych_adapter_load_failures_total",
    "diptych_adapter_load_seconds",
    "diptych_adapter_misses_total",
    "diptych_adapter_requests_waiting",
    "diptych_adapter_resident",
    "diptych_batch_adapter_sets",
    "diptych_batch_rows",
    "diptych_build_info",
    "diptych_cache_hits_total",
    "diptych_cache_misses_total",
    "diptych_decode_time_seconds",
    "diptych_e2e_request_latency_seconds",
    "diptych_images_total",
    "diptych_lora_requests_info",
    "diptych_num_requests_running",
    "diptych_num_requests_waiting",
    "diptych_num_slots",
    "diptych_num_slots_used",
    "diptych_request_errors_total",
    "diptych_request_queue_time_seconds",
    "diptych_requests_total",
    "diptych_step_time_seconds",
}
TRAINING_METRICS = {
    "diptych_build_info",
    "diptych_request_errors_total",
    "diptych_requests_total",
    "diptych_training_attempts_total",
    "diptych_training_faults_total",
    "diptych_training_heartbeat_age_seconds",
    "diptych_training_images_per_second",
    "diptych_training_jobs",
    "diptych_training_queue_time_seconds",
    "diptych_training_steps_total",
}
RPCS = {"Generate", "Refine", "GetCapabilities"}
ADAPTER_RPCS = {
    "DeleteAdapter",
    "ExportAdapter",
    "GetAdapter",
    "ImportAdapter",
    "ListAdapters",
    "LoadAdapter",
    "MergeAdapters",
    "UnloadAdapter",
}
CACHE_RPCS = {
    "EncodeImages",
    "EncodePrompts",
    "EvictEmbeddings",
    "FetchEmbeddings",
    "FindMissing",
    "GetCacheStats",
    "GetEncoders",
    "ReadEmbeddings",
    "WarmDataset",
    "WriteEmbeddings",
}
TRAINING_RPCS = {
    "CancelTrainingJob",
    "CreateTrainingJob",
    "DeleteTrainingJob",
    "GetTrainingJob",
    "ListTrainingJobs",
    "PauseTrainingJob",
    "ResumeTrainingJob",
    "WatchTrainingJob",
}


def test_shared_settings_are_the_listed_ones() -> None:
    names = {f"DIPTYCH_{name.upper()}" for name in SharedSettings.model_fields}
    assert names | {"DIPTYCH_CONFIG"} == SHARED_VARIABLES


def test_inference_settings_are_the_listed_ones() -> None:
    assert set(InferenceSettings.model_fields) == INFERENCE_SETTINGS


def test_training_settings_are_the_listed_ones() -> None:
    assert set(TrainingSettings.model_fields) == TRAINING_SETTINGS


def test_training_metrics_are_the_listed_ones() -> None:
    assert set(TRAINING_METRIC_NAMES) == TRAINING_METRICS


def test_metrics_are_the_listed_ones() -> None:
    assert set(METRIC_NAMES) == METRICS


def test_every_metric_carries_the_prefix_of_the_product() -> None:
    names = (*METRIC_NAMES, *TRAINING_METRIC_NAMES)
    assert [name for name in names if not name.startswith("diptych_")] == []


def test_rpcs_are_the_listed_ones() -> None:
    service = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"]
    assert {method.name for method in service.methods} == RPCS


def test_adapter_rpcs_are_the_listed_ones() -> None:
    service = adapters_pb2.DESCRIPTOR.services_by_name["AdapterService"]
    assert {method.name for method in service.methods} == ADAPTER_RPCS


def test_cache_rpcs_are_the_listed_ones() -> None:
    service = embedding_cache_pb2.DESCRIPTOR.services_by_name["EmbeddingCacheService"]
    assert {method.name for method in service.methods} == CACHE_RPCS


def test_training_rpcs_are_the_listed_ones() -> None:
    service = training_pb2.DESCRIPTOR.services_by_name["TrainingService"]
    assert {method.name for method in service.methods} == TRAINING_RPCS


def test_enums_start_at_unspecified() -> None:
    enums = (
        *types_pb2.DESCRIPTOR.enum_types_by_name.values(),
        *training_pb2.DESCRIPTOR.enum_types_by_name.values(),
    )
    for enum in enums:
        assert enum.values[0].name.endswith("_UNSPECIFIED")
