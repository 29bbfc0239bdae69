"""The SAK model, distillation, stage-1 and stage-2 training, tasks, metrics, reports. Knows no extraction."""
