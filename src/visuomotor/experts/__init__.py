"""Scripted experts: functions of the state of the world, without memory."""
