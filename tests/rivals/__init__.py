"""Vectors of published code against trimkit's methods: ``vectors`` reads and compares, ``adapters`` runs a method on one."""
